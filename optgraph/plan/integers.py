"""What a plan of int8 stores as integers: values on a grid, between operators that take them so.

A value that something else makes or that is an output of the graph is stored as floats, and who reads integers without
a kernel for them has them made floats first (`Lowering.read`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from optgraph.ir.graph import Graph, Node
from optgraph.ir.grids import values_on_grids
from optgraph.ir.quant import Quant

MOST_AXES = 4  # of a value that is stored as integers: as many as the kernel takes that makes floats of them


@dataclass(frozen=True)
class Integers:
    """values: the grids of those that are stored as integers. nodes: names of those that read integers as they are."""

    values: Mapping[str, Quant] = field(default_factory=dict)
    nodes: frozenset[str] = frozenset()

    @classmethod
    def of(cls, graph: Graph, floats: Collection[str], kept: Collection[str]) -> Integers:
        """floats: values that are none. kept: nodes that read and write none."""
        order, grids = graph.nodes(), values_on_grids(graph)
        able = {node.name for node in order if node.op.integers and node.name not in kept}
        passing = {node.name for node in order if _passes_on(node, grids)}
        found = {
            value
            for node in order
            for value in node.outputs
            if node.name in able
            and value in grids
            and value not in floats
            and not graph.is_output(value)
            and len(graph.shape(value)) <= MOST_AXES
        }
        shrank = True
        while shrank:
            before = len(found)
            for node in order:
                # What only passes numbers on has integers where it reads such; one launch stores one type, and in one
                # buffer all are of one.
                if node.name in passing and not found.issuperset(filter(None, node.inputs)):
                    found.difference_update(node.outputs)
                if not found.issuperset(node.outputs):
                    found.difference_update((*node.outputs, *node.op.placed(node)))
            shrank = len(found) < before
        reading = {n.name for n in order if n.name in able and (n.name not in passing or found.issuperset(n.outputs))}
        return cls({value: grids[value] for value in found}, frozenset(reading))


def _passes_on(node: Node, grids: Mapping[str, Quant]) -> bool:
    """Whether its results lie on a grid because what it reads does."""
    unknown = [None] * len(node.inputs)
    return any(v in grids and node.op.on_grid(unknown, i) is None for i, v in enumerate(node.outputs))
