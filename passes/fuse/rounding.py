"""A rounding to a grid becomes the last thing that the operator before it does.

    fake_quantize{g}(op(x))                    ->  op{quants=g}(x)
    fake_quantize{h}(op{quants=g}(x))          ->  op{quants=g, h}(x)
    fake_quantize{g}(concat(a, b, ...))        ->  concat(fake_quantize{g}(a), fake_quantize{g}(b), ...)

What lies on g before goes into the concatenation as it is.

Legal: the value between has no other reader and is no graph output, and an operator rounds to two grids at most. A
concatenation is rounded part by part where the operator before one of the parts can do it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from optgraph.ir.graph import Graph, Node
from optgraph.ir.quant import Quant
from optgraph.ops import Concat, FakeQuantize
from optgraph.ops.rounding import MOST_GRIDS, Rounding
from optgraph.passes.rewrite import Outcome, Rule, sweep


@dataclass(frozen=True)
class _Found:
    producer: Node
    rounding: Node


def _match(graph: Graph, node: Node) -> _Found | None:
    producer = graph.producer(node.inputs[0]) if isinstance(node.op, FakeQuantize) else None
    return _Found(producer, node) if producer and isinstance(producer.op, Rounding | Concat) else None


def _check(graph: Graph, found: _Found) -> str | None:
    producer = found.producer
    if isinstance(producer.op, Rounding):
        return _obstacle(graph, producer)
    if graph.sole_user(producer.output) is None:
        return f"the output of '{producer.name}' is also needed as it is"
    above = [graph.producer(value) for value in producer.inputs]
    if None in above:
        return "it joins an input or a constant"
    if not any(node and (_last(node) or _obstacle(graph, node) is None) for node in above):
        return "nothing that is concatenated can be rounded by what computes it"
    return None


def _obstacle(graph: Graph, producer: Node) -> str | None:
    """Why `producer` cannot take a grid more."""
    if not isinstance(producer.op, Rounding):
        return f"'{producer.name}' ({producer.op.kind}) does not round"
    if graph.sole_user(producer.output) is None:
        return f"the output of '{producer.name}' is also needed as it is"
    if len(producer.op.quants) == MOST_GRIDS:
        return f"'{producer.name}' rounds to {MOST_GRIDS} grids already"
    return None


def _last(node: Node) -> Quant | None:
    """The grid that an operator rounds to, whatever it reads."""
    return node.op.on_grid([None] * len(node.inputs))


def _rewrite(graph: Graph, found: _Found) -> None:
    producer, rounding = found.producer, found.rounding
    assert isinstance(rounding.op, FakeQuantize)
    if isinstance(producer.op, Rounding):
        producer = _rounded(graph, producer, rounding.op.quant, rounding.origin)
    else:
        producer = _parts_rounded(graph, producer, rounding)
    graph.rewire(rounding.output, producer.output)
    graph.remove(graph.node(rounding.name))


def _rounded(graph: Graph, producer: Node, quant: Quant, origin: tuple[str, ...]) -> Node:
    assert isinstance(producer.op, Rounding)
    return graph.update(producer, replace(producer.op, quants=(*producer.op.quants, quant)), origin=origin)


def _parts_rounded(graph: Graph, concat: Node, rounding: Node) -> Node:
    assert isinstance(rounding.op, FakeQuantize)
    parts = []
    for value in concat.inputs:
        producer = graph.producer(value)
        if producer is not None and _last(producer) == rounding.op.quant:
            parts.append(value)
        elif producer is not None and _obstacle(graph, producer) is None:
            parts.append(_rounded(graph, producer, rounding.op.quant, rounding.origin).output)
        else:
            parts.append(graph.add(rounding.op, [value], name=rounding.name, origin=rounding.origin).output)
    return graph.update(graph.node(concat.name), inputs=parts, origin=rounding.origin)


def run(graph: Graph) -> Outcome:
    return sweep(graph, Rule("round in place", _match, _check, _rewrite))
