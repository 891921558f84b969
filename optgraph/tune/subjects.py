"""What there is to tune in a network: the tiles of its launches, and what one launch or several may do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from optgraph.base.devices import Target
from optgraph.ir.graph import Graph, Node
from optgraph.kernels.frame.fusion import Fusion
from optgraph.kernels.frame.tile import Problem
from optgraph.plan.batches import fitting_batch
from optgraph.plan.lowering import Lowering
from optgraph.plan.weights import Shapes
from optgraph.tune.layers import Layer, layer


@dataclass(frozen=True)
class Candidate:
    """What may be one launch: as a layer, and whether that is predicted to be the faster way."""

    layer: Layer
    predicted: bool


@dataclass(frozen=True)
class Subjects:
    """What tiles are chosen for, with a layer for each, whichever way fusions are decided; kernels without a choice are
    not there. And the fusions to decide."""

    problems: dict[Problem, Layer] = field(default_factory=dict)
    fusions: dict[Fusion, Candidate] = field(default_factory=dict)


class _Asked(Lowering):
    """A lowering that takes one way, `one` launch or several, wherever there are both, and notes what it was asked."""

    def __init__(self, *arguments: Any, one: bool) -> None:
        super().__init__(*arguments)
        self.one = one
        self.asked: dict[str, tuple[Fusion, bool]] = {}  # by node; with what is predicted

    def one_launch(self, node: Node, fusion: Fusion, predicted: bool) -> bool:
        self.asked[node.name] = fusion, predicted
        return self.one


def subjects(graph: Graph, dtype: str, batches: Sequence[int], target: Target) -> Subjects:
    """Of plans of the fused `graph` for these batches on `target`."""
    found, weights = Subjects(), Shapes(graph.constants)
    for batch, one in product(batches, (True, False)):
        size = fitting_batch({name: graph.values[name] for name in graph.inputs}, batch)
        lowering = _Asked(graph, size, dtype, target, one=one)
        plan = lowering.plan()
        for call in plan.calls:
            if call.kernel.reference is None:
                continue
            alone = layer(call, plan, weights)
            problem = alone.dry(target).problem
            if problem is not None:
                found.problems.setdefault(problem, alone)
            fusion, predicted = lowering.asked.get(call.node, (None, False))
            if fusion is not None and fusion.kernel == call.kernel.name:
                found.fusions.setdefault(fusion, Candidate(alone, predicted))
    return found
