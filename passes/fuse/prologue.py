"""An activation, or an affine map with one, becomes the prologue of every operator that reads it.

    op(f(x))                  ->  op{pre_act=f}(x)
    op(f(x * scale + shift))  ->  op{pre_act=f}(x, pre_scale=scale, pre_shift=shift)

This is for what `epilogue` had to leave because the raw x is needed too: x goes to memory once, and each reader
of f(x) computes it as it loads.

Legal whatever f(0) is, since padding comes after the prologue. Every reader must be a convolution, a global pool or,
for an activation alone, a pool; must read f(x) as its input; and its own prologue must compose: pre_act comes last.
"""

from __future__ import annotations

from dataclasses import replace

from optgraph.ir.graph import Graph, Node
from optgraph.ir.values import IDENTITY, Act
from optgraph.ops import Activation, Affine
from optgraph.ops.rounding import Rounding
from optgraph.passes.rewrite import Outcome, Rule, sweep


def _match(graph: Graph, node: Node) -> Node | None:
    return node if isinstance(node.op, Activation | Affine) else None


def _act(node: Node) -> Act:
    return node.op.act if isinstance(node.op, Activation | Affine) else IDENTITY


def _obstacle(node: Node, user: Node, slot: int) -> str | None:
    if not user.op.prologue_field:
        return f"'{user.name}' ({user.op.kind}) has no prologue"
    if slot != 0:
        return f"'{user.name}' reads it as its {user.op.slots[slot]}"
    if "pre_scale" not in user.op.slots:
        if isinstance(node.op, Affine):
            return f"'{user.name}', a {user.op.kind.lower()}, takes an activation only"
    elif user.get("pre_scale") or user.get("pre_shift"):
        return f"'{user.name}' has a prologue already"
    if _act(node) and getattr(user.op, user.op.prologue_field):
        return f"'{user.name}' has a prologue already"
    return None


def _check(graph: Graph, node: Node) -> str | None:
    if graph.is_output(node.output):
        return "it is a graph output"
    if isinstance(node.op, Rounding) and node.op.quants:
        return "what it gives is rounded to a grid"
    reasons = (_obstacle(node, user, slot) for user, slot in graph.users(node.output))
    return next((reason for reason in reasons if reason), None)


def _rewrite(graph: Graph, node: Node) -> None:
    changes = {"x": node.inputs[0]}
    if isinstance(node.op, Affine):
        changes |= {"pre_scale": node.get("scale"), "pre_shift": node.get("shift")}
    for user, _ in graph.users(node.output):
        op = replace(user.op, **{user.op.prologue_field: _act(node)}) if _act(node) else user.op
        graph.update(user, op, user.inputs_with(**changes), node.origin, same_value=True)
    graph.remove(node)


def run(graph: Graph) -> Outcome:
    # Backward: of an affine map and a separate activation, the activation is nearer to the operator.
    return sweep(graph, Rule("prologue", _match, _check, _rewrite), backward=True)
