"""Lowering: a fused Graph becomes a Plan for one batch size, dtype and target.

Walks the graph once. Every value gets a View; images lie N×H×W×C in memory whatever their meaning, so a Transpose,
a channel Split and an N×C×1×1 Reshape are just other views, and the producers of an in-place Concat are handed
slices of its buffer. Which kernel runs an operator is for the operator to say (`Op.lower`). What has none becomes a
fallback call, run by the torch reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from optgraph.base.devices import INTERPRET, Target
from optgraph.base.dtypes import INT8, ITEMSIZE, check_dtype, float_storage
from optgraph.base.errors import ModelError, NoKernelError
from optgraph.ir.checks import fixed_shapes
from optgraph.ir.graph import Graph, Node
from optgraph.ir.quant import Quant
from optgraph.ir.values import at
from optgraph.kernels.elementwise import ELEMENTWISE
from optgraph.kernels.frame.ends import Prologue
from optgraph.kernels.frame.fusion import Fusion
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.view import View
from optgraph.plan.batches import check_pixels, fitting_batch
from optgraph.plan.fallback import FALLBACK
from optgraph.plan.integers import MOST_AXES, Integers
from optgraph.plan.kept import Kept
from optgraph.plan.memory import Lifetime, allocate
from optgraph.plan.plan import Call, Fallback, Packed, Plan, Schedule, Weight
from optgraph.plan.schedule import dependences, streams, waves
from optgraph.plan.weights import as_is

DOUBLE = "float64"


def lower(
    graph: Graph, batch: int = 1, dtype: str = "fp32", target: Target = INTERPRET, keep: Collection[str] = ()
) -> Plan:
    """Lowers `graph` for `batch` images. dtype: 'fp32' (IEEE products), 'tf32', 'fp16' or 'bf16'; sums are fp32. Or
    'int8': of values on grids; all else is fp16.

    target: where it is to run: what one launch does, and what two, may depend on it.
    keep: ONNX nodes whose regions stay in float32 (see `plan/kept.py`).
    Raises InputError for an unknown dtype, a batch that the model fixes otherwise, or more pixels than kernels count.
    """
    check_dtype(dtype)
    batch = fitting_batch({name: graph.values[name] for name in graph.inputs}, batch)
    return Lowering(graph, batch, dtype, target, keep).plan()


class Lowering:
    """The state of one lowering; what an op's `lower(context, node)` gets as its context."""

    def __init__(self, graph: Graph, batch: int, dtype: str, target: Target, keep: Collection[str] = ()) -> None:
        self.graph = graph
        self.batch = batch
        self.dtype = dtype
        self.target = target
        self.storage = float_storage(
            dtype
        )  # of floats of the node being lowered: its weights and what lies between its launches
        self.precision = "tf32" if dtype == "tf32" else "ieee"
        self._kept = Kept.of(graph, keep)
        self._integers = Integers.of(graph, self._kept.values, self._kept.nodes) if dtype == INT8 else Integers()
        self._reals: dict[str, View] = {}  # floats of values that are stored as integers
        self._node: Node | None = None
        self._views: dict[str, View] = {}
        self._sizes: dict[str, int] = {}  # arena buffer -> bytes
        self._packed: dict[str, Packed] = {}
        self._scratch: dict[tuple[str, str], View] = {}  # by node and name
        self._calls: list[Call] = []
        self._fallbacks: list[Fallback] = []

    # ---- for an op's lowering

    def shape(self, value: str) -> tuple[int, ...]:
        """The value's shape with the batch filled in."""
        try:
            return tuple(at(d, self.batch) for d in self.graph.shape(value))
        except ModelError as error:
            remedy = fixed_shapes(self.graph)
            raise ModelError(f"the shape of '{value}' is not known: {error.reason}", remedy) from None

    def read(self, value: str) -> View:
        """Where `value` is, axes in their ONNX order: as int8 if `quant` has its grid, and the node takes such."""
        return self._views[value] if self.reads_integers else self.real(value)

    def quant(self, value: str) -> Quant | None:
        """The grid of a value that is stored as int8, and read so by the node; None for any other."""
        return self._integers.values.get(value) if self.reads_integers else None

    @property
    def reads_integers(self) -> bool:
        """Whether the node takes int8."""
        return self._node is not None and self._node.name in self._integers.nodes

    def real(self, value: str) -> View:
        """Where the floats of `value` are: of one that is stored as int8, they are made once."""
        if value not in self._integers.values:
            return self._views[value]
        if value not in self._reals:
            assert self._node is not None
            view, quant = self._views[value], self._integers.values[value]
            made = self._buffer(self._name(f"{value}:real"), view.shape, self._float_dtype(value))
            ends = {"before": Prologue(quant=quant), "x": _with_channels(view), "out": _with_channels(made)}
            self.call(ELEMENTWISE, self._node, **ends)
            self._reals[value] = made
        return self._reals[value]

    def moved(self, value: str, to: str) -> View:
        """Where `value` is, for what only moves it to `to`: as int8 if that takes it as int8."""
        return self.real(value) if self.quant(to) is None else self.read(value)

    def write(self, value: str, dtype: str | None = None) -> View:
        """Where to put `value`: its slice of a concat, or a new arena buffer (channels last)."""
        if value not in self._views:
            self._views[value] = self._buffer(value, self.shape(value), dtype or self._value_dtype(value))
        return self._views[value]

    def write_in_order(self, value: str) -> View:
        """Where to put `value`: a new buffer in the order of its axes, images too, unless it has a place."""
        if value not in self._views:
            shape, dtype = self.shape(value), self._value_dtype(value)
            self._sizes[value] = math.prod(shape) * ITEMSIZE[dtype]
            self._views[value] = View.whole(value, shape, dtype)
        return self._views[value]

    def write_as(self, value: str, shape: Sequence[int]) -> View:
        """Where to put `value`, seen as another shape with the same elements in order."""
        if _laid_out("", self.shape(value), self.storage).reshaped(shape) is None:
            self.write_in_order(value)  # images whose pixels are no rows of that shape
        found = self.write(value).reshaped(shape)
        assert found is not None
        return found

    def operand(self, value: str) -> View | Weight:
        """Where `value` is, constant or not, axes in their ONNX order."""
        if value in self.graph.constants:
            return self.weight(as_is, value, dtype=self._value_dtype(value))
        return self.read(value)

    def alias(self, value: str, view: View) -> None:
        """`value` is where `view` is; nothing runs."""
        self._views[value] = view

    def constant(self, node: Node, slot: str) -> str:
        """The constant in a slot. Raises NoKernelError if it is computed."""
        value = node.get(slot)
        if value not in self.graph.constants:
            raise NoKernelError("its weight is computed, not constant")
        return value

    def weight(
        self, pack: Callable[..., Any], *sources: str, dtype: str | None = None, precision: str = "ieee", **options: Any
    ) -> Weight:
        """A weight packed by `pack` from the named constants; equal requests share one."""
        packed = Packed(pack, sources, dtype or self.storage, options, precision)
        self._packed[packed.key] = packed
        return Weight(packed.key)

    def matrix(self, pack: Callable[..., Any], *sources: str, **options: Any) -> Weight:
        """A weight that tensor cores multiply."""
        return self.weight(pack, *sources, precision=self.precision, **options)

    def vector(self, value: str) -> Weight | None:
        """A bias, scale, shift or slope in float32; None if it is absent. Raises NoKernelError if it is computed."""
        if value and value not in self.graph.constants:
            raise NoKernelError("its bias is computed, not constant")
        return self.weight(as_is, value, dtype="float32") if value else None

    def one_launch(self, node: Node, fusion: Fusion, predicted: bool) -> bool:
        """Whether one launch is to do what `node` is: as was measured on such a GPU, else as predicted."""
        measured = fusion.measured(self.target)
        return predicted if measured is None else measured

    def call(self, kernel: Kernel, node: Node, outputs: tuple[str, ...] = ("out",), /, **arguments: Any) -> None:
        """Emits one launch of `kernel`: its launcher's arguments, of which `outputs` are written, with a View or Weight
        for each tensor."""
        self._calls.append(Call(kernel, node.name, arguments, outputs))

    def fallback(self, node: Node, reason: str) -> None:
        """Runs the node through the torch reference."""
        outs = tuple(self.write(value) for value in node.outputs)
        grids = tuple(self._integers.values.get(value) for value in node.outputs)
        opsets = {**self.graph.domains, "": self.graph.opset}
        inputs = tuple(
            None if not value else self.operand(value) if value in self.graph.constants else self.real(value)
            for value in node.inputs
        )
        said = {"op": node.op, "node": node.name, "opsets": opsets, "grids": grids}
        self.call(FALLBACK, node, ("outs",), **said, inputs=inputs, outs=outs)
        self._fallbacks.append(Fallback(node.name, node.op.kind, reason))

    def dense(self, node: Node, value: str) -> View:
        """`value` as N×H×W×C with pixels at an even pitch, as a residual must be; copied if it is not."""
        view = self.read(value).nhwc
        n, h, w, _ = view.shape
        sn, sh, sw, sc = view.strides
        if sc == 1 and (h == 1 or sh == w * sw) and (n == 1 or sn == h * w * sw):
            return view
        copy = self._buffer(self._name(f"{value}:dense"), self.shape(value), view.dtype)
        self.call(ELEMENTWISE, node, x=view, out=copy.nhwc)
        return copy.nhwc

    def scratch(self, node: Node, shape: tuple[int, ...], name: str = "scratch", dtype: str = "") -> View:
        """A buffer of the node's own, for what lies between its launches; the same whenever it is asked for."""
        if (node.name, name) not in self._scratch:
            dtype = dtype or self._float_dtype(node.output)
            self._scratch[node.name, name] = self._buffer(self._name(f"{node.name}:{name}"), shape, dtype)
        return self._scratch[node.name, name]

    # ---- the walk

    def plan(self) -> Plan:
        inputs = {}
        for name in self.graph.inputs:
            view = View.whole(name, self.shape(name), self.graph.values[name].dtype)
            inputs[name] = self._views[name] = view
        for node in reversed(self.graph.nodes()):  # a Concat within a Concat takes its place from the outer one
            self._enter(node)
            node.op.place(self, node)
        for node in self.graph.nodes():
            self._enter(node)
            before, made = len(self._calls), dict(self._reals)
            try:
                self._check_types(node)
                node.op.lower(self, node)
            except NoKernelError as error:
                del self._calls[before:]
                self._reals = made
                self.fallback(node, str(error) or f"no kernel for {node.op.kind}")
        self._enter(None)
        for call in self._calls:
            check_pixels(call, self.batch)
        outputs: dict[str, View | Weight] = {}
        for public, value in self.graph.outputs.items():
            if value in self.graph.constants:
                outputs[public] = self.weight(as_is, value, dtype=self._value_dtype(value))
            else:
                outputs[public] = self.read(value)
        needs = dependences(self._calls)
        wave = waves(needs)
        offsets, arena = allocate(self._lifetimes(outputs, wave))
        blocks = {name: (offset, offset + self._sizes[name]) for name, offset in offsets.items()}
        produced = [value for node in self.graph.nodes() for value in node.outputs]
        return Plan(
            batch=self.batch,
            dtype=self.dtype,
            target=self.target,
            arena_bytes=arena,
            offsets=offsets,
            inputs=inputs,
            outputs=outputs,
            packed=self._packed,
            calls=tuple(self._calls),
            schedule=Schedule(wave, *streams(self._calls, needs, blocks)),
            results={value: self._views[value] for value in produced},
            grids=self._integers.values,
            fallbacks=tuple(self._fallbacks),
        )

    def _check_types(self, node: Node) -> None:
        """Raises NoKernelError for what no kernel takes: doubles, and tensors without elements."""
        used = [value for value in (*node.inputs, *node.outputs) if value]
        if any(self.graph.values[value].dtype == DOUBLE for value in used):
            raise NoKernelError("it computes doubles")
        if any(0 in self.graph.shape(value) for value in used if value not in self.graph.constants):
            raise NoKernelError("a tensor of it is empty")

    def _enter(self, node: Node | None) -> None:
        """What follows is of `node`."""
        kept = node is not None and node.name in self._kept.nodes
        self._node = node
        self.storage = "float32" if kept else float_storage(self.dtype)
        self.precision = "tf32" if self.dtype == "tf32" and not kept else "ieee"

    def _lifetimes(self, outputs: Mapping[str, View | Weight], wave: Sequence[int]) -> list[Lifetime]:
        """From wave to wave, not call to call: what calls of one wave use is apart, so that they can run together."""
        first: dict[str, int] = {}
        last: dict[str, int] = {}
        for i, call in zip(wave, self._calls, strict=True):
            for view in call.views():
                first.setdefault(view.base, i)
                last[view.base] = i
        for place in outputs.values():
            if isinstance(place, View):
                last[place.base] = len(self._calls)
        return [Lifetime(name, size, first[name], last[name]) for name, size in self._sizes.items() if name in first]

    def _buffer(self, name: str, shape: tuple[int, ...], dtype: str) -> View:
        self._sizes[name] = math.prod(shape) * ITEMSIZE[dtype]
        return _laid_out(name, shape, dtype)

    def _name(self, hint: str) -> str:
        name, i = hint, 0
        while name in self._sizes or name in self.graph.values:
            i += 1
            name = f"{hint}.{i}"
        return name

    def _value_dtype(self, value: str) -> str:
        """How a value is stored."""
        return "int8" if value in self._integers.values else self._float_dtype(value)

    def _float_dtype(self, value: str) -> str:
        """How it is if not as integers: floats as the plan has them, but for doubles, which no kernel computes."""
        dtype = self.graph.values[value].dtype
        if value in self.graph.constants:
            storage = self.storage
        else:
            storage = "float32" if value in self._kept.values else float_storage(self.dtype)
        return storage if dtype != DOUBLE and dtype.startswith(("float", "bfloat")) else dtype


def _with_channels(view: View) -> View:
    """A view as N×H×W×C, one of fewer axes with others of size 1 before them."""
    if len(view.shape) == MOST_AXES:
        return view.nhwc
    ones = MOST_AXES - len(view.shape)
    return replace(view, shape=(1,) * ones + view.shape, strides=(view.strides[0],) * ones + view.strides)


def _laid_out(name: str, shape: tuple[int, ...], dtype: str) -> View:
    """All of a buffer: images as N×H×W×C, anything else in its own order."""
    if len(shape) != 4:
        return View.whole(name, shape, dtype)
    n, c, h, w = shape
    return View.whole(name, (n, h, w, c), dtype).permute(0, 3, 1, 2)
