"""A graph as Graphviz shows it."""

from __future__ import annotations

from optgraph.ir.graph import Graph
from optgraph.ir.text import graph_dot
from optgraph.ir.values import Value
from optgraph.ops import Binary, Concat


def test_dot() -> None:
    graph = Graph()
    x = graph.add_input('x"\\', Value(("N", 4, 3, 3)))
    y = graph.add(Binary(fn="add"), (x, x)).output
    z = graph.add(Concat(axis=1), (x, y)).output
    graph.outputs = {"z": z}
    assert graph_dot(graph).splitlines() == [
        "digraph {",
        "  node [shape=box, fontname=monospace];",
        '  i0 [label="x\\"\\\\\\nN×4×3×3", shape=ellipse];',
        '  n0 [label="Binary[fn=add]\\nN×4×3×3"];',
        "  i0 -> n0;",
        "  i0 -> n0;",
        '  n1 [label="Concat[axis=1]\\nN×8×3×3"];',
        "  i0 -> n1;",
        "  n0 -> n1;",
        '  o0 [label="z\\nN×8×3×3", shape=ellipse];',
        "  n1 -> o0;",
        "}",
    ]
