"""What a value's grid makes superfluous goes, and what must be rounded is so as early as it can be.

    fake_quantize{g}(x), x on g                ->  x
    f(x), x on g, f(q) = q for all of g        ->  x                                   Relu where g begins at 0
    f(fake_quantize{g}(x))                     ->  fake_quantize{g}(f(x))              for a Relu or Clip
    fake_quantize{g}(move(x))                  ->  move(fake_quantize{g}(x))           for a max pool, a reshape ...

so that an activation stands next to the operator before it, and what is rounded next to what computes it.

Legal: a grid has 0 on it and rounding keeps the order of numbers, so it commutes with what limits numbers by some of
the grid, with a maximum, and with whatever moves numbers. The value between the two is read by nobody else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

from optgraph.ir.graph import Graph, Node
from optgraph.ir.grids import values_on_grids
from optgraph.ir.quant import Quant
from optgraph.ir.values import Act
from optgraph.ops import Activation, FakeQuantize, Pool
from optgraph.ops.elementwise import cuts_on
from optgraph.ops.rounding import Rounding
from optgraph.passes.rewrite import Outcome, Rule, sweep

Grids = dict[str, Quant]  # value -> the grid that it lies on


@dataclass(frozen=True)
class _Pair:
    first: Node
    second: Node


# ---- what does nothing


def _match_kept(graph: Graph, node: Node, grids: Grids) -> Node | None:
    quant = grids.get(node.inputs[0]) if node.inputs else None
    match node.op:
        case FakeQuantize() as op if op.quant == quant:
            return node
        case Activation(act=act, quants=()) if quant is not None and _keeps(act, quant):
            return node
    return None


def _keeps(act: Act, quant: Quant) -> bool:
    """Whether `act` returns every number of the grid as it is."""
    low, high = quant.ends
    match act.kind:
        case "relu" | "leaky_relu" | "abs":
            return low >= 0.0
        case "clip":  # to an end of the grid, too, but for what float32 rounds
            below, above = act.a <= low or math.isclose(act.a, low, rel_tol=1e-6), high <= act.b
            return below and (above or math.isclose(act.b, high, rel_tol=1e-6))
    return False


def _allowed(graph: Graph, node: Node) -> None:
    return None


def _remove(graph: Graph, node: Node) -> None:
    graph.rewire(node.output, node.inputs[0])
    graph.remove(graph.node(node.name))


# ---- activations before the grid


def _match_activation(graph: Graph, node: Node) -> _Pair | None:
    rounded = graph.producer(node.inputs[0]) if isinstance(node.op, Activation) else None
    return _Pair(rounded, node) if rounded is not None and isinstance(rounded.op, FakeQuantize) else None


def _check_activation(graph: Graph, found: _Pair) -> str | None:
    rounded, op = found.first.op, found.second.op
    assert isinstance(rounded, FakeQuantize) and isinstance(op, Activation)
    if not cuts_on(op.act, rounded.quant):
        return f"{op.act.kind} is not to be had of numbers that are rounded later"
    if graph.sole_user(found.first.output) is None:
        return f"the output of '{found.first.name}' is also needed without the activation"
    return None


def _swap(graph: Graph, found: _Pair, grids: Grids) -> None:
    first, second = found.first, found.second
    assert isinstance(first.op, FakeQuantize)
    activated = graph.add(second.op, first.inputs, name=second.name, origin=second.origin)
    rounded = graph.add(first.op, activated.outputs, name=first.name, origin=first.origin)
    graph.rewire(second.output, rounded.output)
    graph.remove(graph.node(second.name))
    graph.remove(graph.node(first.name))
    grids[rounded.output] = first.op.quant


# ---- up to what computes it


def _match_moved(graph: Graph, node: Node) -> _Pair | None:
    """The first of what moves the numbers that are rounded, and the rounding."""
    above = graph.producer(node.inputs[0]) if isinstance(node.op, FakeQuantize) else None
    if above is None or not _moves(above):
        return None
    while (higher := graph.producer(above.inputs[0])) is not None and _moves(higher):
        above = higher
    return _Pair(above, node)


def _moves(node: Node) -> bool:
    if isinstance(node.op, Pool):
        return node.op.mode == "max" and node.op.bare and len(node.inputs) == 1
    return node.op.moves and len(node.outputs) == 1 and not any(node.inputs[1:])


def _check_moved(graph: Graph, found: _Pair) -> str | None:
    value = found.first.inputs[0]
    producer = graph.producer(value)
    if producer is None or not isinstance(producer.op, Rounding) or producer.op.quants:
        return "what computes it does not round"
    while value != found.second.output:
        user = graph.sole_user(value)
        if user is None:
            return f"'{value}' is also needed as it is"
        value = user.output
    return None


def _raise(graph: Graph, found: _Pair, grids: Grids) -> None:
    first, second = found.first, found.second
    assert isinstance(second.op, FakeQuantize)
    rounded = graph.add(second.op, first.inputs, name=second.name, origin=second.origin)
    grids[rounded.output] = second.op.quant
    node = graph.update(first, inputs=rounded.outputs)
    while graph.users(node.output)[0][0].name != second.name:
        grids[node.output] = second.op.quant
        node = graph.update(graph.users(node.output)[0][0])  # its values are others now
    grids[node.output] = second.op.quant
    graph.rewire(second.output, node.output)
    graph.remove(graph.node(second.name))


def run(graph: Graph) -> Outcome:
    grids = values_on_grids(graph)
    return sweep(
        graph,
        Rule("on the grid already", partial(_match_kept, grids=grids), _allowed, _remove),
        Rule("activation before rounding", _match_activation, _check_activation, partial(_swap, grids=grids)),
        Rule("round earlier", _match_moved, _check_moved, partial(_raise, grids=grids)),
    )
