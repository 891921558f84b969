"""Nodes that return an input unchanged go; their readers read that input.

    identity(x), cast(x to its own dtype), reshape(x to its own shape), transpose(x, 0 1 2 ...), concat(x)
    x[:], pad(x, 0), split(x, [all]), pool 1×1 / stride 1, global pool or reduction over 1×1 (keeping dims)
    x + 0, x - 0, x * 1, x / 1, x ** 1, affine(x, 1, 0)    ->  x
    cast(cast(x, a), b)                            ->  cast(x, b)

Legal: dtype and shape stay (a broadcasting `x + zeros` may grow x). A chain of casts collapses only where the first
one loses nothing, so that the second sees the same numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from optgraph.ir.graph import Graph, Node
from optgraph.ops import (
    Affine,
    Binary,
    Cast,
    Concat,
    GlobalPool,
    Identity,
    Pad,
    Pool,
    Reduce,
    Reshape,
    Slice,
    Split,
    Transpose,
)
from optgraph.passes.rewrite import Outcome, Rule, sweep

# What holds every number of a dtype; int64 to float64 is not among them.
_WIDER = {
    "bool": {"uint8", "int8", "int32", "int64", "float16", "bfloat16", "float32", "float64"},
    "uint8": {"int32", "int64", "float16", "float32", "float64"},
    "int8": {"int32", "int64", "float16", "float32", "float64"},
    "int32": {"int64", "float64"},
    "float16": {"float32", "float64"},
    "bfloat16": {"float32", "float64"},
    "float32": {"float64"},
}


@dataclass(frozen=True)
class _Found:
    node: Node
    same: str  # the input that the node returns


def _filled_with(array: np.ndarray | None, number: float) -> bool:
    """Whether every element is `number`; a look at the first spares reading large weights."""
    return array is not None and array.size > 0 and bool(array.flat[0] == number) and bool(np.all(array == number))


_UNITS = {"add": 0.0, "sub": 0.0, "mul": 1.0, "div": 1.0, "pow": 1.0, "prelu": 1.0}


def _neutral(graph: Graph, node: Node, fn: str) -> str | None:
    """The operand that `x fn y` returns because the other is the neutral constant."""
    x, y = node.inputs
    unit = _UNITS.get(fn, math.nan)  # which nothing is filled with
    if _filled_with(graph.constant(y), unit):
        return x
    if fn in ("add", "mul") and _filled_with(graph.constant(x), unit):
        return y
    return None


def _returned(graph: Graph, node: Node) -> str | None:
    """The input whose elements are exactly those of the output, shapes not looked at."""
    x = node.inputs[0] if node.inputs else ""
    match node.op:
        case Identity():
            return x
        case Cast(to=to):
            return x if to == graph.values[x].dtype else None
        case Reshape():
            return x
        case Transpose(perm=perm):
            return x if perm == tuple(range(len(perm))) else None
        case Concat():
            return x if len(node.inputs) == 1 else None
        case Split(sizes=sizes):
            return x if len(sizes) == 1 else None
        case Slice(steps=steps):
            return x if all(step > 0 for step in steps) else None
        case Pad(pads=pads):
            return x if not any(pads) else None
        case Pool(kernel=(1, 1), stride=(1, 1), pads=(0, 0, 0, 0)) as op:
            return x if len(node.inputs) == 1 and not (op.pre_act or op.act or op.post) else None
        case GlobalPool(act=act):
            return x if not act and graph.shape(x)[2:] == (1, 1) else None
        case Reduce(axes=axes) as reduction:
            return x if reduction.plain and all(graph.shape(x)[axis] == 1 for axis in axes) else None
        case Binary(fn=fn, post=post):
            return None if post else _neutral(graph, node, fn)
        case Affine(act=act):
            scale, shift = (graph.constant(node.get(slot)) for slot in ("scale", "shift"))
            return x if not act and _filled_with(scale, 1.0) and _filled_with(shift, 0.0) else None
    return None


def _match(graph: Graph, node: Node) -> _Found | None:
    same = _returned(graph, node)
    # A Reshape, Slice or Reduce is always of this kind; that it changes the shape is what it is for.
    if same is None or (
        isinstance(node.op, Reshape | Slice | Reduce) and graph.shape(same) != graph.shape(node.output)
    ):
        return None
    return _Found(node, same)


def _check(graph: Graph, found: _Found) -> str | None:
    before, after = graph.values[found.same], graph.values[found.node.output]
    if before != after:
        return f"it broadcasts {list(before.shape)} to {list(after.shape)}"
    return None


def _remove(graph: Graph, found: _Found) -> None:
    graph.rewire(found.node.output, found.same)
    graph.remove(graph.node(found.node.name))


@dataclass(frozen=True)
class _Casts:
    first: Node
    second: Node


def _match_casts(graph: Graph, node: Node) -> _Casts | None:
    first = graph.producer(node.inputs[0]) if isinstance(node.op, Cast) else None
    return _Casts(first, node) if first is not None and isinstance(first.op, Cast) else None


def _check_casts(graph: Graph, found: _Casts) -> str | None:
    source, middle = graph.values[found.first.inputs[0]].dtype, graph.values[found.first.output].dtype
    if middle not in _WIDER.get(source, ()):
        return f"the cast from {source} to {middle} before it may round"
    return None


def _collapse_casts(graph: Graph, found: _Casts) -> None:
    source = found.first.inputs[0]
    second = graph.update(found.second, inputs=[source], origin=found.first.origin, same_value=True)
    if graph.values[source] == graph.values[second.output]:
        _remove(graph, _Found(second, source))


def run(graph: Graph) -> Outcome:
    outcome = sweep(
        graph,
        Rule("remove no-op", _match, _check, _remove),
        Rule("collapse casts", _match_casts, _check_casts, _collapse_casts),
    )
    graph.prune()
    return outcome
