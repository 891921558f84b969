"""A PRelu spelled in pieces becomes one.

    relu(x) - s * relu(-x)   ->  prelu(x, s)     the minus anywhere, as in Keras: relu(x) + -s * relu(-x)
    relu(x) + s * min(x, 0)  ->  prelu(x, s)
    max(x, s * x)            ->  prelu(x, s)     for 0 < s <= 1

One slope for all makes it a leaky ReLU.

Legal: what lies between is read within the pattern only; s is constant, finite, and no larger than x where it
broadcasts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from optgraph.base.in_range import overflow, stored
from optgraph.ir.graph import Graph, Node
from optgraph.ir.values import RELU, Act
from optgraph.ops import Activation, Binary
from optgraph.passes.rewrite import Outcome, Rule, needed_elsewhere, remove_unread, sweep

_NEGATION = Activation(act=Act("neg"))
_BELOW_ZERO = Activation(act=Act("clip", -math.inf, 0.0))


@dataclass(frozen=True)
class _Found:
    end: Node
    x: str
    slope: np.ndarray  # float64
    inner: list[Node]  # from the end up


@dataclass(frozen=True)
class _Multiple:
    """factor * value, as `nodes` make it, from the end up. factor: float64."""

    value: str
    factor: np.ndarray
    nodes: list[Node]


def _multiple(graph: Graph, value: str) -> _Multiple:
    """`value` as a constant times the value above all negations and products with constants."""
    factor, nodes = np.ones(()), []
    while node := graph.producer(value):
        if node.op == _NEGATION:
            factor, above = -factor, node.inputs[0]
        elif node.op == Binary(fn="mul"):
            first, second = (graph.constant(operand) for operand in node.inputs)
            above, array = (node.inputs[0], second) if first is None else (node.inputs[1], first)
            if array is None or graph.shape(above) != graph.shape(value):
                break
            factor = factor * array.astype(np.float64)
        else:
            break
        nodes.append(node)
        value = above
    return _Multiple(value, factor, nodes)


def _below_zero(graph: Graph, x: str, value: str) -> _Multiple | None:
    """`value` as a multiple of min(x, 0), if it is one."""
    found = _multiple(graph, value)
    bent = graph.producer(found.value)
    if bent is not None and bent.op == _BELOW_ZERO and bent.inputs[0] == x:
        return _Multiple(x, found.factor, [*found.nodes, bent])
    if bent is not None and bent.op == Activation(act=RELU):  # min(x, 0) is -relu(-x)
        mirrored = _multiple(graph, bent.inputs[0])
        if mirrored.value == x and mirrored.factor.size == 1 and mirrored.factor.item() == -1.0:
            return _Multiple(x, -found.factor, [*found.nodes, bent, *mirrored.nodes])
    return None


def _match_sum(graph: Graph, node: Node) -> _Found | None:
    if node.op not in (Binary(fn="add"), Binary(fn="sub")):
        return None
    first, second = node.inputs
    orders = [(first, second)] if node.op == Binary(fn="sub") else [(first, second), (second, first)]
    for positive, other in orders:
        relu = graph.producer(positive)
        if relu is not None and relu.op == Activation(act=RELU):
            found = _below_zero(graph, relu.inputs[0], other)
            if found is not None:
                slope = found.factor if node.op == Binary(fn="add") else -found.factor
                return _Found(node, found.value, slope, [relu, *found.nodes])
    return None


def _match_maximum(graph: Graph, node: Node) -> _Found | None:
    if node.op != Binary(fn="max"):
        return None
    for x, other in (node.inputs, node.inputs[::-1]):
        found = _multiple(graph, other)
        if found.nodes and found.value == x and (found.factor > 0.0).all() and (found.factor <= 1.0).all():
            return _Found(node, x, found.factor, found.nodes)
    return None


def _check(graph: Graph, found: _Found) -> str | None:
    elsewhere = needed_elsewhere(graph, found.end, found.inner)
    return elsewhere or overflow(found.slope, np.dtype(graph.values[found.x].dtype))


def _rewrite(graph: Graph, found: _Found) -> None:
    origin = [name for node in reversed(found.inner) for name in node.origin]
    number = float(found.slope.flat[0])
    if (found.slope == number).all():
        graph.update(found.end, Activation(act=Act("leaky_relu", number)), [found.x], origin, same_value=True)
    else:
        slope = graph.add_constant(stored(found.slope, np.dtype(graph.values[found.x].dtype)), "slope")
        graph.update(found.end, Binary(fn="prelu"), [found.x, slope], origin, same_value=True)
    remove_unread(graph, found.inner)


def run(graph: Graph) -> Outcome:
    return sweep(
        graph,
        Rule("sum to PRelu", _match_sum, _check, _rewrite),
        Rule("maximum to PRelu", _match_maximum, _check, _rewrite),
    )
