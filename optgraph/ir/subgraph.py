"""A piece of a graph as a graph of its own: everything between some values and others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optgraph.base.errors import InputError
from optgraph.ir.graph import Graph, Node


def extract(graph: Graph, outputs: Mapping[str, str], inputs: Sequence[str] = ()) -> Graph:
    """The operators that `outputs` (public name -> value) depend on, from `inputs` on.

    inputs: values that become graph inputs; the graph's own are kept where they are still needed.
    Raises InputError for a value the graph does not have.
    """
    for value in (*outputs.values(), *inputs):
        if value not in graph.values:
            raise InputError(f"the graph has no value '{value}'")
    wanted: dict[str, Node] = {}
    used = dict.fromkeys(outputs.values())
    pending = list(used)
    while pending:
        value = pending.pop()
        node = None if value in inputs else graph.producer(value)
        if node is not None and node.name not in wanted:
            wanted[node.name] = node
            used.update(dict.fromkeys(v for v in node.inputs if v))
            pending += [v for v in node.inputs if v]
    piece = Graph(graph.name)
    piece.opset, piece.domains = graph.opset, dict(graph.domains)
    for value in (*graph.inputs, *inputs):
        if value in used and value not in piece.values:
            piece.add_input(value, graph.values[value])
    for value in used:
        if value in graph.constants:
            piece.constants[value] = graph.constants[value]
            piece.values[value] = graph.values[value]
    piece.grids = {value: grid for value, grid in graph.grids.items() if value in piece.constants}
    for node in graph.nodes():
        if node.name in wanted:
            piece.add(node.op, node.inputs, node.outputs, node.name, node.origin)
    piece.outputs = dict(outputs)
    piece.sources = {v: s for v, s in graph.sources.items() if v in piece.values}
    piece.verify()
    return piece
