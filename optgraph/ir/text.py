"""A graph as text: one line an operator, for dumps, diffs and error reports."""

from __future__ import annotations

import json
from dataclasses import fields

from optgraph.ir.graph import Graph, Node
from optgraph.ir.op import Op
from optgraph.ir.values import Act, Segment, Value


def graph_text(graph: Graph) -> str:
    """The whole graph, inputs and outputs included, in topological order."""
    lines = [f"graph {graph.name}"]
    lines += [f"input {name}: {_type(graph.values[name])}" for name in graph.inputs]
    lines += [node_text(graph, node) for node in graph.nodes()]
    lines += [f"output {public} = {value}: {_type(graph.values[value])}" for public, value in graph.outputs.items()]
    return "\n".join(lines) + "\n"


def node_text(graph: Graph, node: Node) -> str:
    """`out: shape = Op[fields](slot=value, ...)`; an absent input is left out."""
    outputs = ", ".join(f"{value}: {_type(graph.values[value])}" for value in node.outputs)
    slots = node.op.slots
    inputs = ", ".join(
        f"{slots[i]}={value}" if i < len(slots) else value for i, value in enumerate(node.inputs) if value
    )
    return f"{outputs} = {op_text(node.op)}({inputs})"


def op_text(op: Op) -> str:
    """`Conv[kernel=3×3, act=relu]`: the fields that are not at their defaults, but for those with `repr=False`."""
    shown = []
    for f in fields(op):
        value = getattr(op, f.name)
        if f.repr and value != f.default:
            shown.append(f"{f.name}={_field(value)}")
    return f"{op.kind}[{', '.join(shown)}]" if shown else op.kind


def _field(value: object) -> str:
    if isinstance(value, Act):
        return value.kind if value.a == value.b == 0.0 else f"{value.kind}({value.a:g}, {value.b:g})"
    if isinstance(value, Segment):
        return f"{value.channels}{':' + _field(value.act) if value.act else ''}"
    if isinstance(value, tuple):
        return "×".join(_field(v) for v in value)
    return str(value)


def _type(value: Value) -> str:
    shape = "×".join(str(d) for d in value.shape)
    return shape if value.dtype == "float32" else f"{shape} {value.dtype}"


def graph_dot(graph: Graph) -> str:
    """The graph for Graphviz: operators with the shapes of their outputs; constants are left out."""
    lines = ["digraph {", "  node [shape=box, fontname=monospace];"]
    made: dict[str, str] = {}  # value -> the id of the box it comes out of
    for i, name in enumerate(graph.inputs):
        made[name] = f"i{i}"
        lines.append(f"  i{i} [label={_quoted(name, _type(graph.values[name]))}, shape=ellipse];")
    for i, node in enumerate(graph.nodes()):
        made.update(dict.fromkeys(node.outputs, f"n{i}"))
        shapes = ", ".join(_type(graph.values[value]) for value in node.outputs)
        lines.append(f"  n{i} [label={_quoted(op_text(node.op), shapes)}];")
        lines += [f"  {made[value]} -> n{i};" for value in node.inputs if value in made]
    for i, (public, value) in enumerate(graph.outputs.items()):
        lines.append(f"  o{i} [label={_quoted(public, _type(graph.values[value]))}, shape=ellipse];")
        lines += [f"  {made[value]} -> o{i};"] if value in made else []
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(*rows: str) -> str:
    """Rows of text as a Graphviz string, whose escapes are those of JSON."""
    return json.dumps("\n".join(rows), ensure_ascii=False)
