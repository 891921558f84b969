"""What each layer loses in int8 by itself: that layer alone on grids, everything else in float.

At its own output this takes one pass over the network for all layers; at the network's answer, what depends on a layer
is computed once more: half a pass a layer, on average. So it is measured on a few pictures.
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from optgraph.base.progress import Progress, silent
from optgraph.int8.layers import Layer
from optgraph.ir.graph import Graph
from optgraph.onnx.sessions import Feeds
from optgraph.run.reference import Executor

Tensor = torch.Tensor

WEIGHTS, INPUT, OUTPUT = PARTS = ("weights", "input", "output")
UNEVEN = 8.0  # times the median that the widest channel is, from where on that is why


@dataclass(frozen=True)
class Loss:
    """What one layer loses.

    Attributes:
        layer: its name.
        op: its ONNX operator.
        nodes: the nodes of the original model that it stands for.
        own: relative L2 at its own output.
        answer: relative L2 at the network's output, the largest if there are several.
        parts: `own`, where only its weights, its input or its output are on a grid.
        why: the largest of these, and what makes it so, for people.
        kept: whether it stayed in float in the end.
    """

    layer: str
    op: str
    nodes: tuple[str, ...]
    own: float
    answer: float
    parts: Mapping[str, float]
    why: str
    kept: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        numbers = {"own": self.own, "answer": self.answer, **self.parts}
        finite = {name: number if math.isfinite(number) else None for name, number in numbers.items()}
        named = {"layer": self.layer, "op": self.op, "onnx_nodes": list(self.nodes)}
        return named | finite | {"why": self.why, "kept": self.kept}


@dataclass
class _Ratio:
    """‖difference‖ / ‖reference‖ over several pictures."""

    error: float = 0.0
    whole: float = 0.0

    def add(self, result: Tensor, reference: Tensor) -> None:
        self.error += float((result - reference).double().square().sum())
        self.whole += float(reference.double().square().sum())

    @property
    def value(self) -> float:
        if not self.error:
            return 0.0
        return math.sqrt(self.error / self.whole) if self.whole else math.inf


@dataclass
class _Seen:
    """What is seen of one layer on the pictures so far."""

    own: _Ratio = field(default_factory=_Ratio)
    answers: dict[str, _Ratio] = field(default_factory=dict)
    parts: dict[str, _Ratio] = field(default_factory=lambda: {part: _Ratio() for part in PARTS})
    peaks: dict[str, Tensor] = field(default_factory=dict)  # the largest number of each channel
    squares: dict[str, list[float]] = field(default_factory=dict)  # sum of squares, and of how many numbers

    def look(self, what: str, x: Tensor) -> None:
        channels = x.transpose(0, 1).flatten(1) if x.ndim > 1 else x[:, None]
        peaks = channels.abs().amax(1)
        self.peaks[what] = torch.maximum(self.peaks[what], peaks) if what in self.peaks else peaks
        total = self.squares.setdefault(what, [0.0, 0.0])
        total[0] += float(x.double().square().sum())
        total[1] += x.numel()


def everything(executor: Executor, feeds: Feeds) -> dict[str, Tensor]:
    """Every value of a run, by name."""
    values = {name: torch.as_tensor(array) for name, array in feeds.items()}
    for node, outputs in executor.stream(feeds):
        values.update(zip(node.outputs, outputs, strict=True))
    return values


def alone(
    executor: Executor,
    graph: Graph,
    layer: Layer,
    values: MutableMapping[str, Tensor],
    parts: Sequence[str] = PARTS,
    last: bool = True,
) -> Tensor:
    """What a layer gives with these parts of it on grids, of the float `values`.

    last: after its activations, which is what has a grid.
    """
    node = layer.node
    ours: dict[str, Tensor] = {}
    if INPUT in parts:
        ours |= {node.inputs[slot]: grid.apply(values[node.inputs[slot]]) for slot, grid in layer.inputs.items()}
    if WEIGHTS in parts:
        ours |= {node.inputs[slot]: torch.from_numpy(array) for slot, array in layer.weights.items()}
    (y, *_) = executor.node(node, ChainMap(ours, values))
    while last and node is not layer.last:
        before, node = node.output, graph.users(node.output)[0][0]
        (y,) = executor.node(node, {before: y})
    return layer.output.apply(y) if last and OUTPUT in parts and layer.output is not None else y


def losses(
    graph: Graph,
    layers: Sequence[Layer],
    pictures: Iterable[Feeds],
    origins: Mapping[str, Sequence[str]],
    progress: Progress = silent,
) -> list[Loss]:
    """What each layer loses on these pictures, what harms the answer most first.

    graph: in float. origins: of which nodes of the original model each of its nodes was made.
    """
    executor = Executor(graph)
    seen = [_Seen() for _ in layers]
    pictures = list(pictures)
    for i, feeds in enumerate(pictures):
        values = everything(executor, feeds)
        for j, (layer, found) in enumerate(zip(layers, seen, strict=True)):
            progress("losses layer by layer", (i + j / len(layers)) / len(pictures))
            _look(executor, graph, layer, values, found)
    told = [_loss(graph, layer, found, origins) for layer, found in zip(layers, seen, strict=True)]
    return sorted(told, key=lambda loss: (-loss.answer, -loss.own))


def _look(executor: Executor, graph: Graph, layer: Layer, values: dict[str, Tensor], found: _Seen) -> None:
    exact = values[layer.last.output]
    result = alone(executor, graph, layer, values)
    found.own.add(result, exact)
    for part in PARTS:
        found.parts[part].add(alone(executor, graph, layer, values, [part]), exact)
    found.look(INPUT, values[layer.node.inputs[min(layer.inputs)]])
    found.look(OUTPUT, exact)
    for public, answer in _answers(executor, graph, layer, result, values).items():
        found.answers.setdefault(public, _Ratio()).add(answer, values[graph.outputs[public]])


def _answers(
    executor: Executor, graph: Graph, layer: Layer, result: Tensor, values: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The outputs that depend on a layer, where it gives `result`, by public name."""
    changed = {layer.last.output: result}
    order = graph.nodes()
    for node in order[order.index(layer.last) + 1 :]:
        if not changed.keys().isdisjoint(node.inputs):
            changed.update(zip(node.outputs, executor.node(node, ChainMap(changed, values)), strict=True))
    return {public: changed[value] for public, value in graph.outputs.items() if value in changed}


def _loss(graph: Graph, layer: Layer, seen: _Seen, origins: Mapping[str, Sequence[str]]) -> Loss:
    nodes = tuple(dict.fromkeys(name for node in layer.names(graph) for name in origins.get(node, (node,))))
    parts = {part: ratio.value for part, ratio in seen.parts.items()}
    answer = max((ratio.value for ratio in seen.answers.values()), default=0.0)
    return Loss(layer.node.name, layer.op, nodes, seen.own.value, answer, parts, _why(graph, layer, seen, parts))


def _why(graph: Graph, layer: Layer, seen: _Seen, parts: Mapping[str, float]) -> str:
    """Which part loses most, and what of it: 'weights, one scale: the widest of 32 channels is 300× the median'."""
    part = max(parts, key=lambda each: parts[each])
    if not parts[part]:
        return ""
    if part == WEIGHTS:
        slot = min(layer.weights)
        array = np.atleast_1d(graph.constants[layer.node.inputs[slot]])
        if not array.any():
            return "weights: none but the bias"
        axis = array.ndim - 1 if layer.op == "MatMul" else 0
        rows = np.abs(np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1))
        peaks, rms = rows.max(1), math.sqrt(float(np.square(rows, dtype=np.float64).mean()))
        if layer.scales[slot] > 1:
            inside = rows / np.maximum(peaks, np.finfo(np.float32).tiny)[:, None]
            rms = math.sqrt(float(np.square(inside, dtype=np.float64).mean()))
            return f"weights: up to {_times(1 / rms)} their RMS"
    else:
        peaks = seen.peaks[part].numpy()
        total, count = seen.squares[part]
        rms = math.sqrt(total / count)
    widest, median = float(peaks.max()), float(np.median(peaks))
    if len(peaks) > 1 and median and widest > UNEVEN * median:
        return f"{part}, one scale: the widest of {len(peaks)} channels is {_times(widest / median)} the median"
    return f"{part}: up to {_times(widest / rms)} {'their' if part == WEIGHTS else 'its'} RMS"


def _times(ratio: float) -> str:
    return f"{ratio:.2g}×" if ratio < 10 else f"{ratio:.0f}×"
