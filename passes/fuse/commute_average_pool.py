"""An average pool before a 1×1 convolution moves behind it.

    f(conv1x1(average(x)) + b)  ->  f(average(conv1x1(x)) + b)

Averaging is linear and acts on each channel alone, a 1×1 convolution is linear and acts on each pixel alone, so they
commute, whichever pixels the divisor counts: a padded zero is a zero on both sides once the bias comes last. The
whole epilogue moves to the pool.

Legal: the pool is an average with stride 1, bare, and read by the convolution only; the convolution is 1×1, stride 1,
with no prologue.

It pays where the pool then has fewer channels to move, or, at as many, where the convolution becomes one more sibling
of others on x (`merge_siblings`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from optgraph.ir.graph import Graph, Node
from optgraph.ir.values import IDENTITY
from optgraph.ops import Conv, Pool
from optgraph.passes.rewrite import Outcome, Rule, sweep


@dataclass(frozen=True)
class _Found:
    pool: Node
    conv: Node


def _match(graph: Graph, node: Node) -> _Found | None:
    if not isinstance(node.op, Pool) or node.op.mode != "average":
        return None
    for user, slot in graph.users(node.output):
        if isinstance(user.op, Conv) and user.op.pointwise and slot == 0:
            return _Found(node, user)
    return None


def _bare(node: Node) -> bool:
    assert isinstance(node.op, Pool)
    return not (any(node.inputs[1:]) or not node.op.bare)


def _has_sibling(graph: Graph, found: _Found) -> bool:
    for user, slot in graph.users(found.pool.inputs[0]):
        if isinstance(user.op, Conv) and user.op.pointwise and user.op.stride == (1, 1) and slot == 0:
            return True
    return False


def _check(graph: Graph, found: _Found) -> str | None:
    pool, conv = found.pool.op, found.conv.op
    assert isinstance(pool, Pool) and isinstance(conv, Conv)
    if graph.sole_user(found.pool.output) is None:
        return "the pool's output is also needed elsewhere"
    if pool.stride != (1, 1) or conv.stride != (1, 1):
        return "a stride above 1: the convolution would compute pixels that are thrown away"
    if not _bare(found.pool):
        return "the pool has a prologue or epilogue of its own"
    if conv.pre_act or found.conv.get("pre_scale") or found.conv.get("pre_shift"):
        return "the convolution has a prologue"
    cout, cin = (graph.shape(found.conv.get("w"))[axis] for axis in (0, 1))
    if int(cout) > int(cin):
        return f"the pool would move {cout} channels instead of {cin}"
    if cout == cin and not _has_sibling(graph, found):
        return "nothing to gain: as many channels, and no 1×1 sibling on the pool's input"
    return None


def _rewrite(graph: Graph, found: _Found) -> None:
    pool, conv = found.pool, found.conv
    assert isinstance(pool.op, Pool) and isinstance(conv.op, Conv)
    product = graph.add(
        replace(conv.op, act=IDENTITY, post=IDENTITY, before_residual=(), quants=()),
        (pool.inputs[0], conv.get("w")),
        name=conv.name,
        origin=conv.origin,
    )
    average = graph.add(
        replace(
            pool.op,
            act=conv.op.act,
            post=conv.op.post,
            before_residual=conv.op.before_residual,
            quants=conv.op.quants,
        ),
        (product.output, conv.get("b"), conv.get("residual"), conv.get("slope")),
        name=pool.name,
        origin=(*pool.origin, *conv.origin),
    )
    graph.rewire(conv.output, average.output)
    graph.remove(conv)
    graph.remove(pool)


def run(graph: Graph) -> Outcome:
    return sweep(graph, Rule("commute average pool", _match, _check, _rewrite))
