"""A graph of torch's operators made ready for a network: followed, exported, what the model gives put back in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from torch import fx

from optgraph.base.arrays import to_array
from optgraph.base.errors import ModelError
from optgraph.ir.values import BATCH, Shape
from optgraph.modules.export import exported
from optgraph.modules.graph import TorchGraph, unique
from optgraph.modules.watch import Output, follow
from optgraph.onnx.read import read


@dataclass(frozen=True)
class Taken:
    """A graph as an ONNX model.

    model: with the weights as inputs. names: of the output that stands at each place, '' where none is computed.
    outputs: what stands there. open_batch: whether the model takes any batch.
    """

    model: onnx.ModelProto
    names: tuple[str, ...]
    outputs: tuple[Output, ...]
    open_batch: bool

    def given_back(self, answers: Mapping[str, torch.Tensor], arguments: Sequence[Any]) -> list[Any]:
        """What the graph would give for these arguments: the answers, dtypes and order in memory as torch's."""
        found: list[Any] = []
        for name, output in zip(self.names, self.outputs, strict=True):
            if output.like is not None:
                found.append(_as_torch(answers[name], output.like))
            else:
                found.append(output.value if output.position < 0 else arguments[output.position])
        return found


def taken(graph: TorchGraph, arguments: Sequence[Any], exporter: str, names: Sequence[str] = ()) -> Taken:
    """The graph at the sizes of these arguments, and for any batch if that is open and nothing in it says otherwise.

    names: for what it gives back, place by place. Raises ModelError for what cannot run as a network.
    """
    outputs = follow(graph, arguments)
    wanted = names or [f"output_{i}" if len(outputs) > 1 else "output" for i in range(len(outputs))]
    names_taken = set(graph.inputs)
    found: dict[fx.Node, str] = {}
    for name, output in zip(wanted, outputs, strict=True):
        if output.node is not None and output.node not in found:
            found[output.node] = unique(name, names_taken)
    if not found:
        raise ModelError("it computes no tensor")
    nodes = {found[output.node]: output for output in outputs if output.node is not None}
    placed = tuple("" if output.node is None else found[output.node] for output in outputs)
    given = arrays(graph.tensors(arguments))
    if graph.batch:
        model = exported(graph, arguments, nodes, True, exporter)
        try:
            shapes = _shapes(model, given)
        except ModelError:
            shapes = {}  # what cannot be open, is tried at its size
        if all(shapes.get(name) == _expected(graph, output) for name, output in nodes.items()):
            return Taken(model, placed, tuple(outputs), True)
    model = exported(graph, arguments, nodes, False, exporter)
    for name, shape in _shapes(model, given).items():
        like = nodes[name].like
        if like is not None and shape != tuple(like.shape):
            raise ModelError(f"exported, its output is {shape} and not {tuple(like.shape)}")
    return Taken(model, placed, tuple(outputs), False)


def arrays(tensors: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Weights as arrays: in the same memory, where that is the CPU's."""
    return {name: to_array(tensor) for name, tensor in tensors.items()}


def _shapes(model: onnx.ModelProto, weights: Mapping[str, np.ndarray]) -> dict[str, Shape]:
    graph = read(model, weights=weights)
    return {public: graph.shape(value) for public, value in graph.outputs.items()}


def _expected(graph: TorchGraph, output: Output) -> Shape:
    """The shape of an output of the open model."""
    assert output.node is not None and output.like is not None
    sizes = tuple(output.like.shape)
    return (BATCH, *sizes[1:]) if graph.opened(output.node) else sizes


def _as_torch(answer: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    strides, sizes = like.stride(), like.shape
    order = sorted(range(like.dim()), key=lambda axis: (-strides[axis], -sizes[axis]))
    if like.is_contiguous() or not like.permute(order).is_contiguous():  # a part of something, which is now a whole
        return answer.to(like.dtype).contiguous()
    back = [order.index(axis) for axis in range(like.dim())]
    return answer.to(like.dtype).permute(order).contiguous().permute(back)
