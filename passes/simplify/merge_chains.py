"""Data movement in a row is done at once.

    reshape(reshape(x))              ->  reshape(x), to the shape that comes out
    concat(a, concat(b, c), d)       ->  concat(a, b, c, d), on one axis

Legal: the shape that comes out can be said of x (at most its own symbols). The inner Concat is read by the outer one
only: otherwise both are needed, and joining b and c twice costs more.
"""

from __future__ import annotations

from dataclasses import dataclass

from optgraph.base.errors import ModelError
from optgraph.ir.graph import Graph, Node
from optgraph.ir.values import reshaped
from optgraph.ops import Concat, Reshape
from optgraph.passes.rewrite import Outcome, Rule, sweep


@dataclass(frozen=True)
class _Reshapes:
    inner: Node
    outer: Node


def _match_reshapes(graph: Graph, node: Node) -> _Reshapes | None:
    inner = graph.producer(node.inputs[0]) if isinstance(node.op, Reshape) else None
    return _Reshapes(inner, node) if inner is not None and isinstance(inner.op, Reshape) else None


def _check_reshapes(graph: Graph, found: _Reshapes) -> str | None:
    try:
        reshaped(graph.shape(found.inner.inputs[0]), graph.shape(found.outer.output))
    except ModelError as error:
        return str(error)
    return None


def _merge_reshapes(graph: Graph, found: _Reshapes) -> None:
    op = Reshape(shape=graph.shape(found.outer.output))
    graph.update(found.outer, op, found.inner.inputs, found.inner.origin, same_value=True)
    if not graph.users(found.inner.output) and not graph.is_output(found.inner.output):
        graph.remove(found.inner)


@dataclass(frozen=True)
class _Concats:
    outer: Node
    inner: list[Node]


def _match_concats(graph: Graph, node: Node) -> _Concats | None:
    if not isinstance(node.op, Concat):
        return None
    above = [graph.producer(value) for value in node.inputs]
    inner = [n for n in above if n is not None and isinstance(n.op, Concat) and n.op.axis == node.op.axis]
    return _Concats(node, inner) if inner else None


def _owned(graph: Graph, found: _Concats) -> dict[str, Node]:
    """The inner Concats that only the outer one reads, by their value."""
    return {node.output: node for node in found.inner if graph.sole_user(node.output) is not None}


def _check_concats(graph: Graph, found: _Concats) -> str | None:
    return None if _owned(graph, found) else f"'{found.inner[0].name}' is also needed elsewhere"


def _merge_concats(graph: Graph, found: _Concats) -> None:
    owned = _owned(graph, found)
    inputs = [v for value in found.outer.inputs for v in (owned[value].inputs if value in owned else (value,))]
    origin = [name for node in owned.values() for name in node.origin]
    graph.update(found.outer, inputs=inputs, origin=origin, same_value=True)
    for node in owned.values():
        graph.remove(node)


def run(graph: Graph) -> Outcome:
    return sweep(
        graph,
        Rule("merge reshapes", _match_reshapes, _check_reshapes, _merge_reshapes),
        Rule("merge concats", _match_concats, _check_concats, _merge_concats),
    )
