"""A torch module as one ONNX model, for `optgraph.compile(module, example_inputs=x)`: Dynamo takes its graph, whole."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any, NamedTuple

import onnx
import torch
from onnx import numpy_helper
from torch import fx
from torch.utils._pytree import tree_flatten_with_path, tree_leaves

from optgraph.base.errors import InputError, ModelError
from optgraph.modules.check import check
from optgraph.modules.export import check_exporter
from optgraph.modules.graph import TorchGraph
from optgraph.modules.taken import arrays, taken

Examples = torch.Tensor | Sequence[torch.Tensor] | Mapping[str, torch.Tensor]

_REMEDY = 'export it yourself, torch.onnx.export(module, (x,), "model.onnx"), and pass "model.onnx"'


class _Found(NamedTuple):
    """A graph that Dynamo took, and the arguments it was called with.

    names: for each result of the graph. places: which of them each tensor is that the module gives back.
    call: calls the module with what it was given, `given`.
    """

    graph: TorchGraph
    arguments: list[Any]
    names: list[str]
    places: list[int]
    call: Callable[[Mapping[str, torch.Tensor]], Any]
    given: Mapping[str, torch.Tensor]


def exported_module(
    module: torch.nn.Module, example_inputs: Examples | None, exporter: str = "trace"
) -> onnx.ModelProto:
    """The module with its weights, copied, as an ONNX model; of any batch, where the module takes any.

    example_inputs: a tensor, several in order, or by the names of its arguments.
    Raises InputError for inputs that are none, or a module in training mode; ModelError for what cannot be exported.
    """
    check_exporter(exporter)
    module = getattr(module, "_orig_mod", module)  # of what torch.compile gives
    inputs = _by_name(module, example_inputs)
    training = [name or type(module).__name__ for name, inner in module.named_modules() if inner.training]
    if training:
        raise InputError(f"the module is in training mode ({training[0]}): call module.eval()")
    batches = {tensor.shape[:1] for tensor in inputs.values()}
    opened = _several(inputs) if len(batches) == 1 and batches != {()} else {}
    for given in (opened, inputs):
        if not given:
            continue
        found = _found(module, given, given is opened)
        model = taken(found.graph, found.arguments, exporter, found.names)
        if "" in model.names:
            none = found.names[model.names.index("")]
            raise ModelError(f"{none} of what it gives back is none of its results", _REMEDY)
        if given is opened and not model.open_batch:
            continue
        try:
            with torch.inference_mode(False), torch.no_grad():
                check(model, found.graph, found.arguments, found.given, found.call, found.places)
            break
        except ModelError:
            if given is inputs:
                raise
    whole = model.model
    weights = arrays(found.graph.tensors(found.arguments))
    whole.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    whole.graph.name = type(module).__name__
    return whole


def _by_name(module: torch.nn.Module, given: Examples | None) -> dict[str, torch.Tensor]:
    """The inputs by the names of the arguments of the module's `forward`."""
    if given is None:
        raise InputError("a torch module is compiled for inputs: example_inputs=x, a tensor such as it takes")
    names = list(inspect.signature(module.forward).parameters)
    if isinstance(given, Mapping):
        inputs = dict(given)
    else:
        listed = [given] if isinstance(given, torch.Tensor) else list(given)
        names += [f"input_{i}" for i in range(len(names), len(listed))]  # of *args
        inputs = dict(zip(names, listed, strict=False))
    for name, tensor in inputs.items():
        if not isinstance(tensor, torch.Tensor):
            raise InputError(f"example_inputs: expects tensors, got {type(tensor).__name__} for '{name}'")
        if not tensor.numel():
            raise InputError(f"example_inputs: '{name}' is {list(tensor.shape)}, and has no numbers")
    if not inputs:
        raise InputError("example_inputs: expects a tensor at least")
    if isinstance(given, Mapping) and not _takes_names(module, inputs):
        raise InputError(f"example_inputs: it takes {', '.join(names)}, and not {', '.join(map(str, inputs))}")
    return inputs


def _several(inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Two images and more: of one, torch would take the number for part of the program."""
    return {name: torch.cat([x, x]) if x.shape[0] == 1 else x for name, x in inputs.items()}


def _found(module: torch.nn.Module, inputs: Mapping[str, torch.Tensor], open_batch: bool) -> _Found:
    graphs: list[tuple[fx.GraphModule, list[Any]]] = []
    results: list[Any] = []

    def keep(graph: fx.GraphModule, examples: list[Any]) -> Any:
        graphs.append((graph, examples))

        def run(*arguments: Any) -> Any:
            results.append(graph(*arguments))
            return results[-1]

        return run

    def call(given: Mapping[str, torch.Tensor]) -> Any:
        return module(**given) if by_name else module(*given.values())

    by_name = _takes_names(module, inputs)
    # Dynamo counts how often it has seen a piece of code, and gives up: this one is new.
    fresh = FunctionType(call.__code__.replace(), call.__globals__, "call", None, call.__closure__)
    with torch.inference_mode(False), torch.no_grad():
        own = {name: tensor.detach().clone() for name, tensor in inputs.items()}
        for tensor in own.values() if open_batch else ():
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
        try:
            answer = torch.compile(fresh, backend=keep, fullgraph=True, dynamic=False)(own)
        except Exception as error:  # whatever a program can do
            lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            raise ModelError(f"torch cannot take it as one graph ({lines[0].strip()})", _REMEDY) from error
    if len(graphs) != 1:
        raise ModelError("it has no operator of torch in it", _REMEDY)
    graph, examples = graphs[0]
    where = {id(result): i for i, result in enumerate(results[0])}
    names = _names(answer, results[0])
    places = [where[id(leaf)] for leaf in tree_leaves(answer) if isinstance(leaf, torch.Tensor)]
    return _Found(TorchGraph(graph, examples), examples, names, places, call, own)


def _takes_names(module: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> bool:
    try:
        inspect.signature(module.forward).bind(**inputs)
    except TypeError:
        return False
    return True


def _names(answer: Any, results: Sequence[Any]) -> list[str]:
    """What each result of the graph is called, by where it stands in what the module gives back.

    Raises ModelError for a tensor there that is no result of the graph.
    """
    leaves, _ = tree_flatten_with_path(answer)
    places: dict[int, str] = {}
    for path, leaf in leaves:
        name = re.sub(r"\W+", "_", "_".join(str(getattr(k, "key", getattr(k, "idx", k))) for k in path)).strip("_")
        if isinstance(leaf, torch.Tensor):
            places.setdefault(id(leaf), f"output_{name}" if name[:1].isdigit() else name or "output")
    missing = set(places) - {id(result) for result in results}
    if missing:
        raise ModelError(f"{places[missing.pop()]} of what it gives back is an input or a weight", _REMEDY)
    return [places.get(id(result), f"inner_{i}") for i, result in enumerate(results)]
