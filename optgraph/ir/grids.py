"""Which values of a graph lie on a grid (`quant.py`)."""

from __future__ import annotations

from optgraph.ir.graph import Graph
from optgraph.ir.quant import Quant


def values_on_grids(graph: Graph) -> dict[str, Quant]:
    """The grids of the values that lie on one, as far as the operators that compute them tell."""
    found: dict[str, Quant] = {}
    for node in graph.nodes():
        given = [found.get(value) for value in node.inputs]
        for i, value in enumerate(node.outputs):
            quant = node.op.on_grid(given, i)
            if quant is not None:
                found[value] = quant
    return found
