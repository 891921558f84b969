"""An activation or a residual addition becomes the epilogue of the operator before it.

    f(op(x) + b)         ->  op{act=f}(x, b)
    op(x) + r            ->  op(x, residual=r)
    f(op(x) + r)         ->  op{post=f}(x, residual=r)
    f(x + y), no op fits ->  Binary{post=f}(x, y)
    f(concat(op1, op2))  ->  concat(op1{act=f}, op2{act=f})

Legal: the absorbed value has no other reader and is no graph output; the slot is free; r has the shape of op(x).
No cycle can arise: r cannot depend on a value that only the addition reads.

Either operand of an addition may be able to take it. The deeper one does, the other then being ready or running
beside it; ties go by kind and kernel. Operand order, names and the order of nodes, which differ between exporters,
decide nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import networkx as nx

from optgraph.ir.graph import Graph, Node
from optgraph.ops import Activation, Binary, Concat
from optgraph.ops.windowed import Windowed
from optgraph.passes.rewrite import Outcome, Rule, sweep


@dataclass(frozen=True)
class _Activated:
    activation: Node
    producers: list[Node | None]  # what takes it: the operator before it, or all those before a Concat there
    concat: Node | None


@dataclass(frozen=True)
class _Candidate:
    """An operand's producer that could take the other operand as its residual."""

    producer: Node
    residual: str


@dataclass(frozen=True)
class _Sum:
    add: Node
    candidates: list[_Candidate]  # the preferred one first


# ---- activations


def _field(node: Node | None) -> str:
    """Where in `node` an activation of its output belongs; '' for nowhere."""
    return node.op.epilogue_field(node) if node else ""


def _match_activation(graph: Graph, node: Node) -> _Activated | None:
    producer = graph.producer(node.inputs[0]) if isinstance(node.op, Activation) else None
    if producer and isinstance(producer.op, Concat):
        return _Activated(node, [graph.producer(value) for value in producer.inputs], producer)
    return _Activated(node, [producer], None) if _field(producer) else None


def _check_activation(graph: Graph, found: _Activated) -> str | None:
    for node in (*found.producers, found.concat):
        if node and graph.sole_user(node.output) is None:
            return f"the output of '{node.name}' is also needed without the activation"
    for producer in found.producers:
        field = _field(producer)
        if producer is None or not field:
            return "not all that is concatenated can take an activation"
        if getattr(producer.op, field):
            return f"'{producer.name}' has an activation already"
    return None


def _fold_activation(graph: Graph, found: _Activated) -> None:
    op, last = found.activation.op, found.concat
    assert isinstance(op, Activation)
    for producer in found.producers:
        field = _field(producer)
        assert producer and field
        changed = graph.update(producer, replace(producer.op, **{field: op.act}), origin=found.activation.origin)
        last = last or changed
    assert last
    if found.concat:
        last = graph.update(graph.node(last.name))  # its values are others now
    graph.rewire(found.activation.output, last.output)
    graph.remove(found.activation)


# ---- residual additions


def _rank(graph: Graph, depth: dict[str, int], node: Node) -> tuple[int, int, tuple[int, int], int]:
    assert isinstance(node.op, Windowed)
    channels = graph.shape(node.inputs[0])[1]
    return depth[node.name], node.op.takes_residual, node.op.kernel, int(channels)


def _match_residual(graph: Graph, node: Node, depth: dict[str, int]) -> _Sum | None:
    if not isinstance(node.op, Binary) or node.op.fn != "add":
        return None
    candidates = []
    for value, other in (node.inputs, node.inputs[::-1]):
        producer = graph.producer(value)
        if producer and isinstance(producer.op, Windowed) and producer.op.takes_residual:
            candidates.append(_Candidate(producer, other))
    candidates.sort(key=lambda c: _rank(graph, depth, c.producer), reverse=True)
    return _Sum(node, candidates) if candidates else None


def _obstacle(graph: Graph, candidate: _Candidate) -> str | None:
    producer = candidate.producer
    if graph.sole_user(producer.output) is None:
        return f"the output of '{producer.name}' is also needed without the addition"
    if producer.get("residual"):
        return f"'{producer.name}' has a residual already"
    if graph.values[candidate.residual] != graph.values[producer.output]:
        return "an operand is broadcast"
    if candidate.residual in graph.constants:
        return "an operand is constant"
    return None


def _check_residual(graph: Graph, found: _Sum) -> str | None:
    reasons = [_obstacle(graph, candidate) for candidate in found.candidates]
    return None if None in reasons else reasons[0]


def _fold_residual(graph: Graph, found: _Sum) -> None:
    chosen = next(c for c in found.candidates if _obstacle(graph, c) is None)
    producer, add = chosen.producer, found.add
    assert isinstance(producer.op, Windowed) and isinstance(add.op, Binary)
    op = replace(producer.op, post=add.op.post)
    graph.update(producer, op, producer.inputs_with(residual=chosen.residual), add.origin)
    graph.rewire(add.output, producer.output)
    graph.remove(add)


def run(graph: Graph) -> Outcome:
    # Depths are those before the pass: rewrites keep the producers' names.
    layers = nx.topological_generations(graph.nx)
    depth = {name: layer for layer, names in enumerate(layers) for name in names}
    match_residual = partial(_match_residual, depth=depth)
    residual = Rule("residual epilogue", match_residual, _check_residual, _fold_residual)
    activation = Rule("activation epilogue", _match_activation, _check_activation, _fold_activation)
    return sweep(graph, activation, residual)
