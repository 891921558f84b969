"""A graph of torch's operators followed with tensors that have no numbers: what a compiled network could not do in its
place, and what it gives back.

Everything is asked of ATen's operators, to which all ways of writing something come down: whether it trains, is random,
or writes into its arguments.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from optgraph.base.errors import ModelError
from optgraph.modules.graph import TorchGraph, readable

TRAINS = "is in training mode"
_OPEN_NUMBER = (
    "a number of the program's is left open, as dynamic=True does, or it changed",
    "leave dynamic=True out, or set torch._dynamo.config.specialize_float = True",
)


class Output(NamedTuple):
    """What a graph gives back at one place.

    node: whose value it is, where it is to be computed; an output that stands there twice has the same node.
    position: of the argument that it is; -1 if none. value: what it is, if no tensor. like: its shape, dtype, strides.
    """

    node: fx.Node | None
    position: int = -1
    value: Any = None
    like: torch.Tensor | None = None


def follow(graph: TorchGraph, arguments: Sequence[Any]) -> list[Output]:
    """What the graph gives back, by a run without numbers at the sizes of these arguments.

    Raises ModelError, naming the module, where a compiled network would do something else.
    """
    with torch.inference_mode(False), torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), _Seen() as seen:
        given = [_blank(argument) for argument in graph.concrete(arguments)]
        run = _Run(graph, seen)
        try:
            results = run.run(*given)
        except Exception as error:
            lines = str(error).splitlines() or [type(error).__name__]
            if "_local_scalar_dense" in lines[0]:
                raise ModelError(*_OPEN_NUMBER) from error
            raise ModelError(f"torch cannot follow it without numbers ({lines[0]})") from error
    if run.refusals:
        raise min(run.refusals, key=lambda refusal: refusal.reason != TRAINS)  # what trains, often does more
    return _outputs(graph, given, results)


class _Seen(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """What the operators did since it was last cleared."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.clear()

    def clear(self) -> None:
        self.trains = self.random = False
        self.written: list[torch.Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        arguments = func._schema.arguments
        named = {a.name: a.default_value for a in arguments if a.has_default_value()}
        named |= dict(zip((a.name for a in arguments), args, strict=False)) | (kwargs or {})
        training = named.get("training", named.get("train"))
        self.trains |= training is True
        quiet = training is False or named.get("dropout_p") == 0
        self.random |= torch.Tag.nondeterministic_seeded in func.tags and not quiet
        for argument in arguments:
            if argument.alias_info is not None and argument.alias_info.is_write:
                self.written += _tensors(named.get(argument.name))
        return func(*args, **(kwargs or {}))


class _Run(fx.Interpreter):
    """A run that stops at nothing, and keeps the reasons against it."""

    def __init__(self, graph: TorchGraph, seen: _Seen) -> None:
        super().__init__(graph.module, garbage_collect_values=False)
        self.refusals: list[ModelError] = []
        self._graph, self._seen = graph, seen
        self._place = {node: i for i, node in enumerate(graph.module.graph.nodes)}

    def run_node(self, n: fx.Node) -> Any:
        self._seen.clear()
        result = super().run_node(n)
        why = self._why(n)
        if why is not None:
            self.refusals.append(ModelError(*why, where=told(n)))
        return result

    def _why(self, node: fx.Node) -> tuple[str, str] | None:
        seen = self._seen
        if node.op in ("call_function", "call_method") and "autocast" in str(node.target):
            return "computes under autocast", "compile it outside of it, with options={'dtype': 'fp16'}"
        if seen.trains and "instance_norm" not in str(node.target):  # which ATen says by a batchnorm that trains
            return TRAINS, "call .eval() on the module"
        if seen.random:
            return "is random", "call .eval() on the module if it is a dropout"
        for written in seen.written:
            for other, value in self.env.items():
                if other is node or not _same_memory(value, written):
                    continue
                if other.op == "get_attr" or (other.op == "placeholder" and self._is_weight(other)):
                    return f"changes '{readable(other.name)}' of a module in place", "compute a new tensor instead"
                if other.op == "placeholder":
                    return f"changes its argument '{readable(other.name)}' in place", "compute a new tensor instead"
                if not self._told_of(node, other, value):
                    return f"changes in place what '{other.name}' is a view of", "change a clone of it"
        return None

    def _is_weight(self, node: fx.Node) -> bool:
        return self._graph.nodes.index(node) in self._graph.weights.values()

    def _told_of(self, writer: fx.Node, other: fx.Node, value: Any) -> bool:
        """Whether the exporters know that `other` changes: it is the tensor written to, or nobody reads it again."""
        if all(self._place[user] <= self._place[writer] for user in other.users):
            return True
        read = [self.env[node] for node in writer.all_input_nodes if node in self.env]
        return any(each is value for each in read)


def _same_memory(value: Any, written: torch.Tensor) -> bool:
    return any(_memory(tensor) == _memory(written) for tensor in _tensors(value))


def _memory(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _tensors(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def _blank(argument: Any) -> Any:
    """A tensor of the same kind, in whatever mode is on."""
    if not isinstance(argument, torch.Tensor):
        return argument
    return torch.empty_strided(argument.shape, argument.stride(), dtype=argument.dtype, device=argument.device)


def _outputs(graph: TorchGraph, given: Sequence[Any], results: Any) -> list[Output]:
    (returned,) = (node.args[0] for node in graph.module.graph.nodes if node.op == "output")
    if not isinstance(returned, tuple | list) or not isinstance(results, tuple | list):
        raise ModelError("it gives back no tuple of tensors")
    found: list[Output] = []
    for node, result in zip(returned, results, strict=True):
        found.append(_output(graph, given, node, result, found))
    return found


def _output(graph: TorchGraph, given: Sequence[Any], node: Any, result: Any, before: Sequence[Output]) -> Output:
    if not isinstance(result, torch.Tensor):
        if not isinstance(node, fx.Node):
            return Output(None, value=node)
        if node in graph.nodes:
            return Output(None, graph.nodes.index(node))
        raise ModelError(f"gives back a number, {node.name}, that it computes", where=told(node))
    for position, argument in enumerate(given):
        if result is argument:
            return Output(None, position)
        if isinstance(argument, torch.Tensor) and _memory(argument) == _memory(result):
            raise ModelError("gives back a view of an argument", "give back a copy, .clone()", where=told(node))
    for other in before:
        if other.like is result:
            return other
        if other.like is not None and _memory(other.like) == _memory(result):
            raise ModelError("gives back two views of one tensor", "give back a copy, .clone()", where=told(node))
    return Output(node, like=result)


def told(node: fx.Node) -> str:
    """Where a node comes from: its module, and the line of the program."""
    return ", ".join(_places(node))


def _places(node: fx.Node) -> Iterator[str]:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if stack:
        path, kind = stack[-1]
        name = re.sub(r"^L\['\w+'\]\.?", "", path)
        kind = getattr(kind, "__name__", str(kind))
        yield f"{name} ({kind})" if name else kind
    else:
        yield f"'{node.name}'"
    lines = re.findall(r'File "([^"]*)", line (\d+), in (\w+)', node.meta.get("stack_trace") or "")
    if lines:
        file, line, function = lines[-1]
        yield f"{Path(file).name}:{line} in {function}"
