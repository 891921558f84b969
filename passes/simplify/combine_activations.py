"""Activations spelled in pieces become one.

    x * sigmoid(x)                     ->  silu(x)
    x * hard_sigmoid(x, 1/6, 1/2)      ->  hard_swish(x)
    clip(clip(x, a, b), c, d)          ->  clip(x, ...), where relu is clip to [0, ∞)

Legal: the inner activation is read by nobody else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from optgraph.ir.graph import Graph, Node
from optgraph.ir.values import RELU, Act
from optgraph.ops import Activation, Binary
from optgraph.passes.rewrite import Outcome, Rule, sweep


@dataclass(frozen=True)
class _Found:
    inner: Node
    outer: Node
    act: Act


def _gated(act: Act) -> Act | None:
    """x * act(x) as one activation."""
    if act.kind == "sigmoid":
        return Act("silu")
    if act.kind == "hard_sigmoid" and math.isclose(act.a, 1 / 6, rel_tol=1e-6) and act.b == 0.5:
        return Act("hard_swish")
    return None


def _match_gate(graph: Graph, node: Node) -> _Found | None:
    if not isinstance(node.op, Binary) or node.op.fn != "mul" or node.op.post:
        return None
    for x, gate in (node.inputs, reversed(node.inputs)):
        inner = graph.producer(gate)
        if inner is not None and isinstance(inner.op, Activation) and inner.inputs[0] == x:
            act = _gated(inner.op.act)
            if act is not None:
                return _Found(inner, node, act)
    return None


def _interval(act: Act) -> tuple[float, float] | None:
    if act == RELU:
        return 0.0, math.inf
    return (act.a, act.b) if act.kind == "clip" else None


def _match_clips(graph: Graph, node: Node) -> _Found | None:
    inner = graph.producer(node.inputs[0]) if isinstance(node.op, Activation) else None
    if inner is None or not isinstance(inner.op, Activation):
        return None
    assert isinstance(node.op, Activation)
    first, second = _interval(inner.op.act), _interval(node.op.act)
    if first is None or second is None:
        return None
    low, high = (min(max(bound, second[0]), second[1]) for bound in first)
    return _Found(inner, node, RELU if (low, high) == (0.0, math.inf) else Act("clip", low, high))


def _check(graph: Graph, found: _Found) -> str | None:
    if graph.sole_user(found.inner.output) is None:
        return f"the output of '{found.inner.name}' is also needed elsewhere"
    return None


def _rewrite(graph: Graph, found: _Found) -> None:
    x, op = found.inner.inputs[0], Activation(act=found.act)
    graph.update(found.outer, op, [x], found.inner.origin, same_value=True)
    graph.remove(found.inner)


def run(graph: Graph) -> Outcome:
    return sweep(
        graph,
        Rule("gate to activation", _match_gate, _check, _rewrite),
        Rule("merge clips", _match_clips, _check, _rewrite),
    )
