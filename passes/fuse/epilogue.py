"""An activation or a residual addition becomes the epilogue of the operator before it.

    f(op(x) + b)         ->  op{act=f}(x, b)
    op(x) + r            ->  op(x, residual=r)
    f(op(x) + r)         ->  op{post=f}(x, residual=r)
    f(x + y), no op fits ->  Binary{post=f}(x, y)
    op{quants=g}(x) + r  ->  op{before_residual=g}(x, residual=r)                  (`run_rounded`)
    f(concat(op1, op2))  ->  concat(op1{act=f}, op2{act=f})

f may be a PRelu of a slope a channel, which then become an input of the operator; behind a concat, each gets its own.

Legal: the absorbed value has no other reader and is no graph output; the slot is free, and op does not
round to a grid, but for a residual to one; r has the shape of op(x); the slopes are constant, and the operator takes
some and has none yet.
No cycle can arise: r cannot depend on a value that only the addition reads.

Either operand of an addition may be able to take it. The deeper one does, the other then being ready or running
beside it; ties go by kind and kernel. Operand order, names and the order of nodes, which differ between exporters,
decide nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import networkx as nx
import numpy as np

from optgraph.ir.graph import Graph, Node
from optgraph.ir.values import IDENTITY, PRELU, Act
from optgraph.ops import Activation, Binary, Concat
from optgraph.ops.rounding import Rounding
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


def _act(node: Node) -> Act:
    """What a node that is nothing but an activation applies; identity for any other."""
    match node.op:
        case Activation(act=act):
            return act
        case Binary(fn="prelu", post=post) if not post:
            return PRELU
    return IDENTITY


def _slopes(graph: Graph, node: Node) -> np.ndarray | None:
    """The slopes of a PRelu, [C]; None if they are computed or not one a channel."""
    array, x = graph.constant(node.inputs[1]), graph.shape(node.inputs[0])
    if array is None or len(x) < 2 or not isinstance(x[1], int):
        return None
    shape = (*[1] * (len(x) - array.ndim), *array.shape)
    one_a_channel = array.ndim <= len(x) and array.size == shape[1] == x[1]
    return array.reshape(-1) if one_a_channel else None


def _match_activation(graph: Graph, node: Node) -> _Activated | None:
    producer = graph.producer(node.inputs[0]) if _act(node) else None
    if producer and isinstance(producer.op, Concat):
        return _Activated(node, [graph.producer(value) for value in producer.inputs], producer)
    return _Activated(node, [producer], None) if _field(producer) else None


def _check_activation(graph: Graph, found: _Activated) -> str | None:
    sloped = _act(found.activation).sloped
    if sloped and _slopes(graph, found.activation) is None:
        return "its slopes are not constants, one a channel"
    if sloped and found.concat and isinstance(found.concat.op, Concat) and found.concat.op.axis != 1:
        return "what is concatenated has not its channels"
    for node in (*found.producers, found.concat):
        if node and graph.sole_user(node.output) is None:
            return f"the output of '{node.name}' is also needed without the activation"
    for producer in found.producers:
        field = _field(producer)
        if producer is None or not field:
            return "not all that is concatenated can take an activation"
        if getattr(producer.op, field):
            return f"'{producer.name}' has an activation already"
        if sloped and "slope" not in producer.op.slots:
            return f"'{producer.name}' ({producer.op.kind}) takes no slope a channel"
        if sloped and producer.get("slope"):
            return f"'{producer.name}' has slopes already"
        if isinstance(producer.op, Rounding) and producer.op.quants:
            return f"the output of '{producer.name}' is rounded to a grid before it"
    return None


def _fold_activation(graph: Graph, found: _Activated) -> None:
    act, last, first = _act(found.activation), found.concat, 0
    slopes = _slopes(graph, found.activation) if act.sloped else None
    for producer in found.producers:
        field = _field(producer)
        assert producer and field
        inputs = producer.inputs
        if slopes is not None:
            end = first + int(graph.shape(producer.output)[1])
            inputs = producer.inputs_with(slope=graph.add_constant(slopes[first:end], found.activation.inputs[1]))
            first = end
        op = replace(producer.op, **{field: act})
        changed = graph.update(producer, op, inputs, found.activation.origin)
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


def _match_residual(graph: Graph, node: Node, depth: dict[str, int], rounded: bool) -> _Sum | None:
    if not isinstance(node.op, Binary) or node.op.fn != "add":
        return None
    candidates = []
    for value, other in (node.inputs, node.inputs[::-1]):
        producer = graph.producer(value)
        if not producer or not isinstance(producer.op, Windowed) or not producer.op.takes_residual:
            continue
        if bool(producer.op.quants) or not rounded:
            candidates.append(_Candidate(producer, other))
    candidates.sort(key=lambda c: _rank(graph, depth, c.producer), reverse=True)
    return _Sum(node, candidates) if candidates else None


def _check_rounded(graph: Graph, found: _Sum) -> str | None:
    reasons = [_obstacle(graph, candidate, 1) for candidate in found.candidates]
    return None if None in reasons else reasons[0]


def _obstacle(graph: Graph, candidate: _Candidate, grids: int = 0) -> str | None:
    """Why it cannot take the residual. grids: how many it may round to before."""
    producer = candidate.producer
    if graph.sole_user(producer.output) is None:
        return f"the output of '{producer.name}' is also needed without the addition"
    if producer.get("residual"):
        return f"'{producer.name}' has a residual already"
    assert isinstance(producer.op, Windowed)
    if len(producer.op.quants) > grids:
        return f"the output of '{producer.name}' is rounded to a grid before it"
    if graph.values[candidate.residual] != graph.values[producer.output]:
        return "an operand is broadcast"
    if candidate.residual in graph.constants:
        return "an operand is constant"
    return None


def _check_residual(graph: Graph, found: _Sum) -> str | None:
    reasons = [_obstacle(graph, candidate) for candidate in found.candidates]
    return None if None in reasons else reasons[0]


def _fold_residual(graph: Graph, found: _Sum) -> None:
    chosen = next(c for c in found.candidates if _obstacle(graph, c, 1) is None)
    producer, add = chosen.producer, found.add
    assert isinstance(producer.op, Windowed) and isinstance(add.op, Binary)
    before = producer.op.quants
    op = replace(producer.op, post=add.op.post, before_residual=before, quants=add.op.quants)
    graph.update(producer, op, producer.inputs_with(residual=chosen.residual), add.origin)
    graph.rewire(add.output, producer.output)
    graph.remove(add)


def run(graph: Graph) -> Outcome:
    activation = Rule("activation epilogue", _match_activation, _check_activation, _fold_activation)
    return sweep(graph, activation, _residual(graph, False, _check_residual))


def run_rounded(graph: Graph) -> Outcome:
    """Residuals onto what is rounded to a grid before, once that is known."""
    return sweep(graph, _residual(graph, True, _check_rounded))


def _residual(graph: Graph, rounded: bool, check: Callable[[Graph, _Sum], str | None]) -> Rule[_Sum]:
    # Depths are those before the pass: rewrites keep the producers' names.
    layers = nx.topological_generations(graph.nx)
    depth = {name: layer for layer, names in enumerate(layers) for name in names}
    return Rule("residual epilogue", partial(_match_residual, depth=depth, rounded=rounded), check, _fold_residual)
