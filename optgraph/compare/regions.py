"""Region by region: each result that a backend shows, against the value of the original model that it should equal.

Both sides stream, in the same order, so memory stays bounded, and what is found is the first region that is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch

from optgraph.base.progress import Progress
from optgraph.compare.oracle import NOISE_FACTOR, NOISE_LIMIT, SIGMOID_SCALE, distance, finite_part
from optgraph.compare.original import Original
from optgraph.ir.graph import Graph, Node
from optgraph.ir.op import Op, Outputs
from optgraph.ir.words import op_text
from optgraph.run.context import Tensors
from optgraph.run.reference import Executor

# What a region may be off, in terms of an output: inside, rounding shows about 2.5 times as much as at the end, where
# a global pool averages most of it away (measured in float32 on Inception V3 and Inception-ResNet-v2).
REGION_FACTOR = 4.0


class BadRegion(TypedDict):
    """A node whose result is wrong, and the ONNX nodes it stands for.

    Of a network of 8 bits, fault: 'meant', if the graph asks for something else than the model, or 'computed', if the
    backend gives something else than the graph asks for. Where the result lies on a grid, integers_off: the share of
    its integers that are wrong, and steps_off, by how many steps at most.
    """

    region: str
    op: str
    onnx_nodes: list[str]
    rel_l2: float
    fault: NotRequired[str]
    integers_off: NotRequired[float]
    steps_off: NotRequired[float]


class Regions:
    """Compares each region's results with the reference as the backend shows them.

    compared: names of the regions that have a value of the original model to equal. total: how many there are.
    bad: the first that does not equal it. broken: the first with a NaN or an Inf that the original does not have there.
    worst: the region that is furthest off, right or wrong.
    by_themselves: whether each is compared on the same inputs as the reference, so that errors do not add up.
    """

    by_themselves = False

    def __init__(
        self, graph: Graph, original: Original, index: int, bound: float, tell: Progress, stored: Executor | None = None
    ) -> None:
        """index: of the input to compare on. bound: relative L2 that a region may be off.

        stored: runs `graph` in numbers as the backend stores them. Twice what that alone moves a region is allowed too,
        up to ten times the bound.
        """
        feeds = original.feeds[index]
        produced = [value for node in graph.nodes() for value in node.outputs]
        self._sources = {value: graph.sources[value] for value in produced if value in graph.sources}
        self._wanted = [value for value, source in self._sources.items() if source.name in original.values]
        self.bound = bound
        self.total = len(graph)
        self.compared: set[str] = set()
        self.bad: BadRegion | None = None
        self.broken: BadRegion | None = None
        self.worst: BadRegion | None = None
        self._spreads = original.spreads
        self._rounded: Iterator[tuple[Node, Outputs]] | None = stored.stream(feeds) if stored else None
        self._expected = original.values.stream([self._sources[value].name for value in self._wanted], feeds)
        self._tell = tell
        self._left = set(self._wanted)

    def see(self, node: Node, results: Tensors) -> None:
        """`node` has given `results`; called in the order of `graph.nodes()`, and a node's outputs in theirs."""
        rounded = dict(zip(node.outputs, next(self._rounded)[1], strict=True)) if self._rounded else {}
        for value in results:
            if value not in self._left:
                continue
            self._left.remove(value)
            self.compared.add(node.name)
            expected, source = next(self._expected), self._sources[value]
            expected = expected.transpose(source.perm) if source.perm else expected
            scale = SIGMOID_SCALE if ends_with_sigmoid(node.op) else self._spreads.get(source.name, 0.0)
            bound = self.bound
            if value in rounded:
                noise, _ = distance(rounded[value], expected, scale)
                bound = max(bound, min(NOISE_FACTOR * noise, NOISE_LIMIT * bound))
            self._compare(node, results[value], expected, scale, bound)
            self._tell("regions", 1.0 - len(self._left) / len(self._wanted))

    def _compare(self, node: Node, result: torch.Tensor, expected: np.ndarray, scale: float, bound: float) -> None:
        ours, theirs = finite_part(result.detach().cpu().double().numpy(), np.asarray(expected, np.float64))
        new = ours.shape == theirs.shape and bool((~np.isfinite(ours) & np.isfinite(theirs)).any())
        rel_l2, _ = distance(ours, theirs, scale)
        found = BadRegion(region=node.name, op=op_text(node.op), onnx_nodes=list(node.origin), rel_l2=rel_l2)
        if self.worst is None or rel_l2 > self.worst["rel_l2"]:
            self.worst = found
        if self.bad is None and rel_l2 > bound:
            self.bad = found
        if self.broken is None and new:
            self.broken = found


def ends_with_sigmoid(op: Op) -> bool:
    """Whether the last thing that `op` does to its numbers is a sigmoid, or one in straight pieces."""
    acts = [getattr(op, name, None) for name in ("post", "act")]
    last = next((act for act in acts if act), None)
    return last is not None and last.kind in ("sigmoid", "hard_sigmoid")


def text(region: BadRegion) -> str:
    """'conv1' (Conv[...]), off by 1e-3, for ONNX nodes a, b"""
    nodes = ", ".join(region["onnx_nodes"]) or "unknown"
    return f"'{region['region']}' ({region['op']}), {how_far(region)}, for ONNX nodes {nodes}"


def how_far(region: Mapping[str, Any]) -> str:
    """How far a region is off, and where that comes from."""
    distance = region["rel_l2"]  # None in JSON, where it is no number
    off = "NaN or Inf" if distance is None or not math.isfinite(distance) else f"off by {distance:.1e}"
    if "integers_off" in region:
        off = f"{region['integers_off']:.2%} of its integers off by up to {region['steps_off']:.3g} steps"
    why = {"meant": " in the graph that it was compiled to", "computed": " from what the backend itself gave it"}
    return off + why.get(region.get("fault", ""), "")
