"""Batch normalisation, whole or in pieces, becomes one Affine: act(x * scale + shift), one number a channel.

    batchnorm(x)                 ->  x * (s / √(var + ε)) + (b - mean * s / √(var + ε))
    x + c, c - x, x * c, x / c   ->  x * scale + shift
    affine(affine(x))            ->  x * (s₁ s₂) + (t₁ s₂ + t₂)

A chain of such operators is composed in float64 and stored once, in the dtype of x.

Legal: constants are one number or one a channel, and finite, also once they are composed, in the dtype of x; x keeps
its shape, which is N×C or N×C×H×W in floats.
Values inside the chain are read by the chain only (a chain ends before a value that is not).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optgraph.base.in_range import out_of_range, overflow
from optgraph.ir.graph import Graph, Node
from optgraph.ops import Affine, BatchNorm, Binary
from optgraph.passes.rewrite import Outcome, Rule, sweep


@dataclass(frozen=True)
class _Term:
    """x * scale + shift in float64: one number, or one a channel."""

    x: str
    scale: np.ndarray
    shift: np.ndarray


def _per_channel(array: np.ndarray, rank: int) -> np.ndarray | None:
    """A constant that broadcasts along all axes but axis 1 of a tensor of `rank`, flat; None if it does not."""
    if array.size == 1 and array.ndim <= rank:
        return array.reshape(1)
    shape = (1,) * (rank - array.ndim) + array.shape
    return array.reshape(-1) if len(shape) == rank and array.size == shape[1] else None


def _term(graph: Graph, node: Node) -> _Term | None:
    """What the node does to its non-constant operand, if it is affine by channel."""
    shape = graph.shape(node.output)
    if len(shape) not in (2, 4) or isinstance(shape[1], str):
        return None
    if not graph.values[node.output].dtype.startswith("float"):
        return None
    match node.op:
        case Affine(act=act) if not act:
            scale, shift = (graph.constant(node.get(slot)) for slot in ("scale", "shift"))
            if scale is None or shift is None:
                return None
            return _Term(node.inputs[0], scale.astype(np.float64), shift.astype(np.float64))
        case BatchNorm(epsilon=epsilon):
            arrays = [graph.constant(node.get(slot)) for slot in ("scale", "b", "mean", "var")]
            if any(array is None for array in arrays):
                return None
            s, b, mean, var = (np.asarray(array, dtype=np.float64) for array in arrays)
            with np.errstate(all="ignore"):  # what is not finite is refused later
                scale = s / np.sqrt(var + epsilon)
            return _Term(node.inputs[0], scale, b - mean * scale)
        case Binary(fn=fn, post=post) if not post:
            return _binary_term(graph, node, fn)
    return None


def _binary_term(graph: Graph, node: Node, fn: str) -> _Term | None:
    first, second = (graph.constant(value) for value in node.inputs)
    if (first is None) == (second is None):
        return None
    array, x = (second, node.inputs[0]) if first is None else (first, node.inputs[1])
    assert array is not None
    shape = graph.shape(node.output)
    constant = _per_channel(array, len(shape)) if graph.shape(x) == shape else None
    if constant is None or (fn == "div" and first is not None):
        return None
    c = constant.astype(np.float64)
    one, zero = np.ones(1), np.zeros(1)
    match fn:
        case "add":
            return _Term(x, one, c)
        case "mul":
            return _Term(x, c, zero)
        case "sub":
            return _Term(x, one, -c) if first is None else _Term(x, -one, c)
        case "div":
            with np.errstate(all="ignore"):
                return _Term(x, 1.0 / c, zero)
    return None


@dataclass(frozen=True)
class _Chain:
    nodes: list[Node]  # from the end up
    term: _Term


def _match(graph: Graph, node: Node) -> _Chain | None:
    """A chain, found at its last operator, so that each is walked once."""
    term = _term(graph, node)
    below = graph.sole_user(node.output)
    if term is None or (below is not None and _term(graph, below) is not None):
        return None
    nodes = [node]
    while True:
        above = graph.producer(term.x)
        if above is None or graph.sole_user(term.x) is None:
            break
        inner = _term(graph, above)
        if inner is None:
            break
        nodes.append(above)
        term = _Term(inner.x, inner.scale * term.scale, inner.shift * term.scale + term.shift)
    return None if len(nodes) == 1 and isinstance(node.op, Affine) else _Chain(nodes, term)


def _check(graph: Graph, found: _Chain) -> str | None:
    dtype = np.dtype(graph.values[found.nodes[0].output].dtype)
    return out_of_range(found.term.scale, dtype) or overflow(found.term.shift, dtype)


def _rewrite(graph: Graph, found: _Chain) -> None:
    end, term = found.nodes[0], found.term
    value = graph.values[end.output]
    channels = int(value.shape[1])
    vectors = [
        graph.add_constant(np.broadcast_to(vector, (channels,)).astype(value.dtype), f"{end.name}.{hint}")
        for hint, vector in (("scale", term.scale), ("shift", term.shift))
    ]
    origin = [name for node in reversed(found.nodes) for name in node.origin]
    affine = graph.add(Affine(), [term.x, *vectors], name=end.name, origin=origin)
    graph.rewire(end.output, affine.output)
    for node in found.nodes:
        graph.remove(graph.node(node.name))


def run(graph: Graph) -> Outcome:
    return sweep(graph, Rule("make affine", _match, _check, _rewrite))
