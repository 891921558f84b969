"""The reference executor: runs any Graph, simplified or fused, with plain torch in NCHW (each operator's `compute`).

It is the second opinion next to ONNX Runtime, and simple enough to be trusted: one loop over the nodes in topological
order, each value freed after its last use. Every floating value is of the one dtype asked for, whatever the model says.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from optgraph import ops
from optgraph.base.arrays import to_tensor
from optgraph.base.dtypes import torch_dtype
from optgraph.base.errors import InputError, ModelError
from optgraph.ir.graph import Graph, Node
from optgraph.ir.op import Inputs, Op, Outputs
from optgraph.ir.values import Value

Tensor = torch.Tensor
Array = np.ndarray | Tensor


@dataclass(frozen=True)
class _Step:
    node: Node
    function: Callable[[Inputs], Outputs]
    dead: tuple[str, ...]  # values that nothing after this node reads


class Executor:
    """A Graph made ready to run many times. Nothing changes after construction, so threads may share one.

    dtype: of every floating value; a Cast to a float keeps it, integers stay integers.
    device: where constants and computation live; feeds are moved there. On CUDA, the precision of float32 products is
    torch's own setting: `torch.backends.cudnn.allow_tf32` is on by default.

    store: what becomes of a floating value, by its name, once it is computed: to round it, say.

    Raises ModelError, naming the node, if an operator has no reference implementation.
    """

    def __init__(
        self,
        graph: Graph,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        store: Callable[[str, Tensor], Tensor] | None = None,
    ) -> None:
        self._dtype = dtype
        self._store = store
        self._device = torch.device(device)
        self._inputs = {name: graph.values[name] for name in graph.inputs}
        self._outputs = dict(graph.outputs)
        self._constants = {name: self._tensor(array) for name, array in graph.constants.items()}
        self._opsets = {**graph.domains, "": graph.opset}
        self._steps = self._schedule(graph)
        self._functions = {step.node.name: step.function for step in self._steps}

    def __call__(self, feeds: Mapping[str, Array], keep: Container[str] = ()) -> dict[str, Tensor]:
        """Outputs by public name, on the device, and by value name the inner values that `keep` contains.

        Raises InputError if the feeds do not fit the inputs, ModelError if a node cannot be computed.
        """
        values = self._bind(feeds)
        kept: dict[str, Tensor] = {}
        for node, outputs in self._walk(values):
            kept.update((name, value) for name, value in zip(node.outputs, outputs, strict=True) if name in keep)
        # A constant may be an output; the caller gets one of their own.
        return kept | {
            public: values[value].clone() if value in self._constants else values[value]
            for public, value in self._outputs.items()
        }

    def node(self, node: Node, values: Mapping[str, Tensor], op: Op | None = None, store: bool = True) -> Outputs:
        """What one node makes of these values and the constants. Raises ModelError if it cannot be computed.

        op: in the place of its own. store: whether what it makes is stored as any is.
        """
        found = (values.get(name, self._constants.get(name)) for name in node.inputs)
        inputs = [x.to(self._dtype) if x is not None and x.is_floating_point() else x for x in found]
        function = self._functions[node.name] if op is None or op is node.op else op.function(self._opsets)
        computed = _computed(function, node, inputs)
        return tuple(map(self.stored, node.outputs, computed)) if store else computed

    def stream(self, feeds: Mapping[str, Array]) -> Iterator[tuple[Node, Outputs]]:
        """Each node with its outputs, in topological order, computed as the iterator is advanced.

        Raises InputError at once if the feeds do not fit the inputs; ModelError later if a node cannot be computed.
        """
        return self._walk(self._bind(feeds))

    def _walk(self, values: dict[str, Tensor]) -> Iterator[tuple[Node, Outputs]]:
        for step in self._steps:
            node = step.node
            computed = _computed(step.function, node, [values[name] if name else None for name in node.inputs])
            outputs = tuple(map(self.stored, node.outputs, computed))
            values.update(zip(node.outputs, outputs, strict=True))
            for name in step.dead:
                del values[name]
            yield node, outputs

    def stored(self, name: str, tensor: Tensor) -> Tensor:
        """What is kept of a value, by its name."""
        if not tensor.is_floating_point():
            return tensor
        tensor = tensor.to(self._dtype)
        return self._store(name, tensor) if self._store is not None else tensor

    def _schedule(self, graph: Graph) -> tuple[_Step, ...]:
        read_later = {*self._outputs.values(), *self._constants}
        steps: list[_Step] = []
        for node in reversed(graph.nodes()):
            touched = dict.fromkeys(name for name in (*node.inputs, *node.outputs) if name)
            dead = tuple(name for name in touched if name not in read_later)
            read_later.update(dead)
            try:
                call = self._settled(graph, node).function(self._opsets)
            except ModelError as error:
                raise ModelError(_located(node, error)) from error
            steps.append(_Step(node, call, dead))
        return tuple(reversed(steps))

    def _settled(self, graph: Graph, node: Node) -> Op:
        """The node's operator with what only the graph and the run know filled in."""
        if isinstance(node.op, ops.Reshape):
            return replace(node.op, shape=graph.shape(node.output))  # -1 resolved, at most the batch left
        if isinstance(node.op, ops.Cast) and torch_dtype(node.op.to).is_floating_point:
            return replace(node.op, to=str(self._dtype).removeprefix("torch."))
        return node.op

    def _tensor(self, array: Array) -> Tensor:
        """On the device, floats in the run's dtype, and detached from autograd."""
        array = to_tensor(array) if isinstance(array, np.ndarray) else array
        return array.detach().to(self._device, self._dtype if array.is_floating_point() else None)

    def _bind(self, feeds: Mapping[str, Array]) -> dict[str, Tensor]:
        unknown = [name for name in feeds if name not in self._inputs]
        if unknown:
            raise InputError(f"the model has no input '{unknown[0]}': its inputs are {_listed(self._inputs)}")
        values = dict(self._constants)
        symbols: dict[str, int] = {}
        for name, expected in self._inputs.items():
            if name not in feeds:
                raise InputError(f"input '{name}' is missing: it expects {_described(expected)}")
            _check_shape(name, tuple(feeds[name].shape), expected, symbols)
            tensor = self._tensor(feeds[name])
            wanted = torch_dtype(expected.dtype)
            if tensor.is_floating_point() and not wanted.is_floating_point:
                raise InputError(f"input '{name}' is of dtype {feeds[name].dtype}: it expects {_described(expected)}")
            values[name] = tensor.to(self._dtype if wanted.is_floating_point else wanted)
        return values


def _computed(function: Callable[[Inputs], Outputs], node: Node, inputs: Inputs) -> Outputs:
    try:
        return function(inputs)
    except (ModelError, RuntimeError) as error:  # torch raises RuntimeError for what it cannot compute
        raise ModelError(_located(node, error)) from error


def _check_shape(name: str, shape: tuple[int, ...], expected: Value, symbols: dict[str, int]) -> None:
    """`symbols` collects what each symbolic dimension stands for, the same in all inputs."""
    fits = len(shape) == len(expected.shape) and all(
        size == (symbols.setdefault(dim, size) if isinstance(dim, str) else dim)
        for size, dim in zip(shape, expected.shape, strict=True)
    )
    if not fits:
        known = "".join(f", {symbol} = {size}" for symbol, size in symbols.items() if symbol in expected.shape)
        raise InputError(f"input '{name}' has shape {list(shape)}: it expects {_described(expected)}{known}")


def _described(value: Value) -> str:
    return f"{value.dtype} [{', '.join(map(str, value.shape))}]"


def _listed(inputs: Mapping[str, Value]) -> str:
    return ", ".join(f"'{name}' {_described(value)}" for name, value in inputs.items())


def _located(node: Node, error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return f"node '{node.name}' ({node.op.kind}): {lines[0]}"


def run(
    graph: Graph,
    feeds: Mapping[str, Array],
    dtype: torch.dtype = torch.float32,
    keep: Container[str] = (),
) -> dict[str, Tensor]:
    """Runs `graph` once on the CPU: outputs by public name, and by value name the inner values in `keep`.

    Raises as `Executor` does.
    """
    return Executor(graph, dtype)(feeds, keep)


def stream(
    graph: Graph, feeds: Mapping[str, Array], dtype: torch.dtype = torch.float32
) -> Iterator[tuple[Node, Outputs]]:
    """Each node with its outputs, in topological order, on the CPU; dead values are freed on the way."""
    return Executor(graph, dtype).stream(feeds)
