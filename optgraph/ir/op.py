"""What an operator is: a frozen dataclass that knows its shapes, its ONNX, its torch reference and its kernel.

An operator of one's own subclasses `Op`, as ours do, and overrides what it needs: `infer` and `compute` to run at all,
`handlers` to be imported, `export` to be written back, `lower` to run through a kernel. `Importer` and `Exporter` are
what it sees of an ONNX model on the way in and out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from optgraph.base.errors import FIX_INPUT, ModelError, NoKernelError
from optgraph.ir.quant import Grid, Quant
from optgraph.ir.values import Act, Dim, Shape, Value

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import torch

Inputs = Sequence["torch.Tensor | None"]
Outputs = tuple["torch.Tensor", ...]


@dataclass(frozen=True, kw_only=True)
class Op:
    """Base of all operators.

    slots:            names of the inputs in order; a missing optional input is the empty string.
    handlers:         how an ONNX operator becomes this one, by its type; 'domain:Type' outside ONNX's own domain.
    prologue_field:   the field that takes an activation of input `x`, '' if none does. An operator with slots
                      `pre_scale` and `pre_shift` takes an affine map before it, too.
    writes_channels:  whether its kernel may write into a channel slice of a wider buffer.
    moves:            whether all elements of the outputs are some of the first input, whatever these are.
    integers:         whether `lower` takes and gives int8 for values on grids, if `context.quant` says so.
    """

    slots: ClassVar[tuple[str, ...]] = ("x",)
    handlers: ClassVar[Handlers] = {}
    prologue_field: ClassVar[str] = ""
    writes_channels: ClassVar[bool] = False
    moves: ClassVar[bool] = False
    integers: ClassVar[bool] = False

    @property
    def kind(self) -> str:
        return type(self).__name__

    def per_slot(self, inputs: Inputs) -> list[Any]:
        """One tensor a slot, None where it is absent."""
        return [*inputs, *[None] * (len(self.slots) - len(inputs))]

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        """Shapes and dtypes of the outputs; the default is one output like the first input."""
        return (present(inputs, 0),)

    def epilogue_field(self, node: Node) -> str:
        """The field that takes an activation of the output of `node`, whose operator this is; '' if none does. A PRelu
        needs a slot `slope` beside it."""
        return ""

    def on_grid(self, grids: Sequence[Quant | None], output: int = 0) -> Quant | None:
        """The grid that an output lies on, given those of the inputs; None if none is known."""
        return grids[0] if self.moves else None

    def export(self, to: Exporter, node: Node) -> None:
        """Adds the ONNX nodes that say `node`. Raises ModelError if ONNX has no equivalent."""
        raise ModelError("ONNX has no such operator")

    def least_opset(self, source: int) -> int:
        """The lowest opset that `export` can write for, of a model that came in opset `source`; 0 if any will do."""
        return 0

    def compute(self, inputs: Inputs) -> Outputs:
        """Plain torch reference, NCHW, on one tensor a slot, None for an absent one; no dtype is assumed."""
        raise ModelError(f"operator {self.kind} has no reference implementation (define compute)")

    def function(self, opsets: Mapping[str, int]) -> Callable[[Inputs], Outputs]:
        """`compute`, to be called any number of times and from any thread.

        opsets: of the model, by domain, '' being ONNX's own. Raises ModelError if it cannot be computed.
        """
        return self.compute

    def place(self, context: Any, node: Node) -> None:
        """Hands producers their places in a buffer of `node`, before anything is lowered; most have none."""

    def placed(self, node: Node) -> tuple[str, ...]:
        """The inputs that `place` may hand a place to."""
        return ()

    def lower(self, context: Any, node: Node) -> None:
        """Emits kernel calls into a plan (see `plan/lowering.py`). Without one, the op runs as a torch fallback."""
        raise NoKernelError


@dataclass(frozen=True)
class Node:
    """An operator in a graph.

    Attributes:
        name: unlike that of any other node.
        op: the operator, with its attributes.
        inputs: names of the values that it reads, in the order of `op.slots`; '' for an absent one.
        outputs: names of the values that it computes.
        origin: the ONNX nodes that it stands for.
    """

    name: str
    op: Op
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    origin: tuple[str, ...] = ()

    @property
    def output(self) -> str:
        """The first output; most operators have just one."""
        return self.outputs[0]

    def get(self, slot: str) -> str:
        """The value in the named slot, '' if absent."""
        i = self.op.slots.index(slot)
        return self.inputs[i] if i < len(self.inputs) else ""

    def inputs_with(self, **slots: str) -> tuple[str, ...]:
        """The inputs with some slots set by name, absent ones spelled out as ''."""
        inputs = [*self.inputs, *[""] * (len(self.op.slots) - len(self.inputs))]
        for slot, value in slots.items():
            inputs[self.op.slots.index(slot)] = value
        return tuple(inputs)


# ---- ONNX, as an operator sees it


class Handler(Protocol):
    """Adds an ONNX node to the graph by `importer.add`. `attrs`: its attributes as Python values.

    Raises KeepError (`ops/importing.py`) if this use of the operator has no form of ours, so that it stays Opaque.
    """

    def __call__(self, importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any], /) -> None: ...


Handlers = Mapping[str, Handler]


class Importer(Protocol):
    """An import under way. Names are those of ONNX values, which nodes before this one have defined."""

    @property
    def opset(self) -> int: ...

    @property
    def model(self) -> onnx.ModelProto: ...

    def shape(self, name: str) -> Shape: ...

    def dtype(self, name: str) -> str: ...

    def constant(self, name: str) -> np.ndarray | None:
        """The array of a value that is known now; None for any other."""

    def dims(self, name: str) -> list[Dim] | None:
        """The elements of a shape vector, symbols included; None if it is not known."""

    def reads(self, names: Sequence[str]) -> bool:
        """Whether a node or the caller of the model reads any of these values."""

    def alias(self, name: str, target: str) -> None:
        """`name` is just another name of the value `target`."""

    def add(self, op: Op, inputs: Sequence[str], outputs: Sequence[str] | None = None) -> str:
        """Adds an operator and returns its first output.

        outputs: what it computes, one name each, '' for a value inside; the ONNX node's first output if None.
        """

    def add_constant(self, array: np.ndarray, hint: str, grid: Grid | None = None) -> str:
        """A new constant, under a name like `hint`. grid: that it lies on."""

    def grid(self, name: str) -> Grid | None:
        """The grid of a constant that was integers in the model; None for any other value."""


class Exporter(Protocol):
    """An export under way. Values are the graph's; names are those of the ONNX model."""

    @property
    def opset(self) -> int: ...

    @property
    def source_opset(self) -> int:
        """The opset of the model that the graph came from."""

    def value(self, value: str) -> Value:
        """Shape and dtype of a value."""

    def array(self, value: str) -> np.ndarray | None:
        """The array of a constant; None for any other value."""

    def name(self, value: str) -> str:
        """The ONNX name of a value, '' for an absent one."""

    def constant(self, array: np.ndarray, hint: str) -> str:
        """The name of a new initializer."""

    def fresh(self, hint: str) -> str:
        """A name for a value inside the node being written."""

    def emit(self, op_type: str, inputs: Sequence[str], outputs: Sequence[str] | None = None, **attrs: Any) -> str:
        """Adds an ONNX node; returns its first output, a fresh name unless given. Absent inputs at the end go."""

    def add(self, proto: onnx.NodeProto) -> None:
        """Adds a finished node, named after the node being written."""

    def bind(self, value: str, result: str) -> None:
        """Makes `result`, which nothing has read yet if this node emitted it, the graph's `value`."""


# ---- for `infer`


def present(inputs: Sequence[Value | None], slot: int) -> Value:
    value = inputs[slot] if slot < len(inputs) else None
    if value is None:
        raise ModelError(f"input {slot} is missing")
    return value


def fixed(dim: Dim) -> int:
    if isinstance(dim, str):
        raise ModelError(f"dimension '{dim}' is not known", FIX_INPUT)
    return dim


def check_vector(inputs: Sequence[Value | None], slot: int, length: Dim) -> None:
    """Raises ModelError if the optional input is not a vector of `length`."""
    value = inputs[slot] if slot < len(inputs) else None
    if value is not None and value.shape != (length,):
        raise ModelError(f"a bias, scale, shift or slope of shape {list(value.shape)} for {length} channels")


def check_slope(op: Op, inputs: Sequence[Value | None], length: Dim, *acts: Act, name: str = "slope") -> None:
    """Raises ModelError unless the slot has a slope a channel where just one of `acts` is a PRelu, and else nothing."""
    slot = op.slots.index(name) if name in op.slots else len(inputs)
    check_vector(inputs, slot, length)
    given = slot < len(inputs) and inputs[slot] is not None
    if sum(act.sloped for act in acts) != given:
        kinds = ", ".join(act.kind for act in acts)
        raise ModelError(f"its {name} is {'given' if given else 'absent'}, and what it is for is {kinds}")


def image(inputs: Sequence[Value | None]) -> Value:
    x = present(inputs, 0)
    if len(x.shape) != 4:
        raise ModelError(f"expects a 4-D N×C×H×W input, got shape {list(x.shape)}: only 2-D networks are supported")
    return x
