"""Regions that stay in float32 in a plan of fewer bits, for what they compute leaves the range of these.

A region that is kept stores its results in float32 and has its weights so. So does what reads these results, for it
would round them to its weights' type: its own results are stored as the plan stores any.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import dataclass

from optgraph.base.errors import InputError
from optgraph.ir.graph import Graph, Node


@dataclass(frozen=True)
class Kept:
    """nodes: names of the regions that compute in float32. values: those that are stored in it."""

    nodes: frozenset[str] = frozenset()
    values: frozenset[str] = frozenset()

    @classmethod
    def of(cls, graph: Graph, keep: Collection[str]) -> Kept:
        """keep: ONNX nodes. A value shares its type with what lies in one buffer or one launch with it."""
        if not keep:
            return cls()
        order = graph.nodes()
        kept = {node.name for node in regions(graph, keep)}
        values = {value for node in order if node.name in kept for value in node.outputs}
        grew = True
        while grew:
            before = len(values)
            for node in (*order, *reversed(order)):
                placed = node.op.placed(node)
                if not values.isdisjoint((*node.outputs, *placed)):
                    values.update(node.outputs, placed)
                elif not values.isdisjoint(node.inputs):  # it computes in float32, and so is what lies inside it
                    values.update(placed)
            grew = len(values) > before
        reading = {node.name for node in order if not values.isdisjoint(node.inputs)}
        return cls(frozenset(kept | reading), frozenset(values))


def regions(graph: Graph, keep: Collection[str]) -> list[Node]:
    """The regions that ONNX nodes of these names became part of."""
    return [node for node in graph.nodes() if not set(node.origin).isdisjoint(keep)]


def check_known(graph: Graph, keep: Collection[str]) -> None:
    """Raises InputError for a name of an ONNX node that no region stands for."""
    known = {name for node in graph.nodes() for name in node.origin}
    for name in keep:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
            remedy = f"close are {', '.join(close)}" if close else "optgraph inspect --json lists them"
            raise InputError(f"keep-fp32 '{name}': no region stands for an ONNX node of this name: {remedy}")
