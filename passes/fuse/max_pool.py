"""A max pool and the 1×1 convolution after it become one operator.

    conv1x1(maxpool(pre_act(x)))  ->  pooled_pointwise{pre_act}(x, w, b)

so that the value between them never reaches memory. The epilogue is that of the convolution.

Legal: the pool has no epilogue of its own and its output is read by the convolution only; that one is 1×1, with stride
1, no prologue and constant weights.

It pays where the two are all that comes next, as in a stem. Beside other branches on x, as in GoogLeNet, they cost no
time of their own, but would as one: the product has few programs on a small map, and each would pool all channels.
Nor may the columns exceed one block of a tile: for every further block the window would be read again.
"""

from __future__ import annotations

from dataclasses import dataclass

from optgraph.ir.graph import Graph, Node
from optgraph.ops import Conv, Pool, PooledPointwise
from optgraph.passes.rewrite import Outcome, Rule, sweep

MAX_COLUMNS = 256


@dataclass(frozen=True)
class _Found:
    pool: Node
    conv: Node


def _match(graph: Graph, node: Node) -> _Found | None:
    if not isinstance(node.op, Pool) or node.op.mode != "max":
        return None
    for user, slot in graph.users(node.output):
        if isinstance(user.op, Conv) and user.op.pointwise and slot == 0:
            return _Found(node, user)
    return None


def _check(graph: Graph, found: _Found) -> str | None:
    pool, conv = found.pool.op, found.conv.op
    assert isinstance(pool, Pool) and isinstance(conv, Conv)
    if graph.sole_user(found.pool.output) is None:
        return "the pool's output is also needed elsewhere"
    if any(found.pool.inputs[1:]) or pool.act or pool.post or pool.quants:
        return "the pool has an epilogue of its own"
    if conv.stride != (1, 1):
        return "the convolution has a stride"
    if conv.pre_act or found.conv.get("pre_scale") or found.conv.get("pre_shift"):
        return "the convolution has a prologue"
    if not all(value in graph.constants for value in (found.conv.get("w"), found.conv.get("b")) if value):
        return "its weights are computed, not constant"
    if len(graph.users(found.pool.inputs[0])) > 1:
        return "it runs beside other branches on the same image"
    columns = graph.shape(found.conv.output)[1]
    if int(columns) > MAX_COLUMNS:
        return f"{columns} output channels: beyond {MAX_COLUMNS} the pool would be done again for each block of them"
    return None


def _rewrite(graph: Graph, found: _Found) -> None:
    pool, conv = found.pool, found.conv
    assert isinstance(pool.op, Pool) and isinstance(conv.op, Conv)
    op = PooledPointwise(
        kernel=pool.op.kernel,
        stride=pool.op.stride,
        pads=pool.op.pads,
        dilation=pool.op.dilation,
        pre_act=pool.op.pre_act,
        act=conv.op.act,
        post=conv.op.post,
        quants=conv.op.quants,
        before_residual=conv.op.before_residual,
    )
    inputs = (pool.inputs[0], conv.get("w"), conv.get("b"), conv.get("residual"), conv.get("slope"))
    graph.replace_node(conv, op, inputs, pool.origin)
    graph.remove(pool)


def run(graph: Graph) -> Outcome:
    return sweep(graph, Rule("max pool", _match, _check, _rewrite))
