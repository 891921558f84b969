"""A graph as text: one line an operator, for dumps, diffs and error reports."""

from __future__ import annotations

import json

from optgraph.ir.graph import Graph, Node
from optgraph.ir.words import op_text, type_text


def graph_text(graph: Graph) -> str:
    """The whole graph, inputs and outputs included, in topological order."""
    lines = [f"graph {graph.name}"]
    lines += [f"input {name}: {type_text(graph.values[name])}" for name in graph.inputs]
    lines += [node_text(graph, node) for node in graph.nodes()]
    lines += [f"output {public} = {value}: {type_text(graph.values[value])}" for public, value in graph.outputs.items()]
    return "\n".join(lines) + "\n"


def node_text(graph: Graph, node: Node) -> str:
    """`out: shape = Op[fields](slot=value, ...)`; an absent input is left out. Integers of the model are called so."""
    outputs = ", ".join(f"{value}: {type_text(graph.values[value])}" for value in node.outputs)
    slots = node.op.slots
    shown = [f"{value} {graph.grids[value].dtype}" if value in graph.grids else value for value in node.inputs]
    inputs = ", ".join(f"{slots[i]}={text}" if i < len(slots) else text for i, text in enumerate(shown) if text)
    return f"{outputs} = {op_text(node.op)}({inputs})"


def graph_dot(graph: Graph) -> str:
    """The graph for Graphviz: operators with the shapes of their outputs; constants are left out."""
    lines = ["digraph {", "  node [shape=box, fontname=monospace];"]
    made: dict[str, str] = {}  # value -> the id of the box it comes out of
    for i, name in enumerate(graph.inputs):
        made[name] = f"i{i}"
        lines.append(f"  i{i} [label={_quoted(name, type_text(graph.values[name]))}, shape=ellipse];")
    for i, node in enumerate(graph.nodes()):
        made.update(dict.fromkeys(node.outputs, f"n{i}"))
        shapes = ", ".join(type_text(graph.values[value]) for value in node.outputs)
        lines.append(f"  n{i} [label={_quoted(op_text(node.op), shapes)}];")
        lines += [f"  {made[value]} -> n{i};" for value in node.inputs if value in made]
    for i, (public, value) in enumerate(graph.outputs.items()):
        lines.append(f"  o{i} [label={_quoted(public, type_text(graph.values[value]))}, shape=ellipse];")
        lines += [f"  {made[value]} -> o{i};"] if value in made else []
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(*rows: str) -> str:
    """Rows of text as a Graphviz string, whose escapes are those of JSON."""
    return json.dumps("\n".join(rows), ensure_ascii=False)
