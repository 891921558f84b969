"""A depthwise convolution and the 1×1 convolution after it become one operator.

    pointwise(mid(depthwise(pre(x)) + dw_b))  ->  separable{mid}(x, dw, dw_b, w, b)

so that the value between them, as large as x, need not reach memory. The epilogue is that of the pointwise one. Whether
one kernel runs both is decided when batch and target are known (`kernels/separable.pays`): else there are two.

Legal: one filter a channel, as many channels out as in; its output is read by the pointwise convolution only; that one
has stride 1 and no prologue; nothing is added or rounded between the two.
"""

from __future__ import annotations

from dataclasses import dataclass

from optgraph.ir.graph import Graph, Node
from optgraph.ops import Conv, Separable
from optgraph.passes.rewrite import Outcome, Rule, sweep


@dataclass(frozen=True)
class _Found:
    depthwise: Node
    pointwise: Node


def _match(graph: Graph, node: Node) -> _Found | None:
    if not isinstance(node.op, Conv) or not node.op.depthwise(graph.shape(node.inputs[0])[1]):
        return None
    for user, slot in graph.users(node.output):
        if isinstance(user.op, Conv) and user.op.pointwise and slot == 0:
            return _Found(node, user)
    return None


def _check(graph: Graph, found: _Found) -> str | None:
    depthwise, pointwise = found.depthwise.op, found.pointwise.op
    assert isinstance(depthwise, Conv) and isinstance(pointwise, Conv)
    if graph.sole_user(found.depthwise.output) is None:
        return "the depthwise output is also needed elsewhere"
    if graph.shape(found.depthwise.output)[1] != depthwise.groups:
        return "the depthwise convolution has several filters a channel"
    if found.depthwise.get("residual") or depthwise.post:
        return "something is added between the two convolutions"
    if depthwise.quants:
        return "what the depthwise convolution gives is rounded to a grid"
    if pointwise.stride != (1, 1):
        return "the pointwise convolution has a stride"
    if pointwise.pre_act or found.pointwise.get("pre_scale") or found.pointwise.get("pre_shift"):
        return "the pointwise convolution has a prologue"
    return None


def _rewrite(graph: Graph, found: _Found) -> None:
    first, second = found.depthwise, found.pointwise
    assert isinstance(first.op, Conv) and isinstance(second.op, Conv)
    op = Separable(
        kernel=first.op.kernel,
        stride=first.op.stride,
        pads=first.op.pads,
        dilation=first.op.dilation,
        pre_act=first.op.pre_act,
        mid=first.op.act,
        act=second.op.act,
        post=second.op.post,
        quants=second.op.quants,
        before_residual=second.op.before_residual,
    )
    inputs = (
        first.inputs[0],
        first.get("w"),
        first.get("b"),
        second.get("w"),
        second.get("b"),
        second.get("residual"),
        first.get("pre_scale"),
        first.get("pre_shift"),
        second.get("slope"),
        first.get("slope"),
    )
    graph.replace_node(second, op, inputs, first.origin)
    graph.remove(first)


def run(graph: Graph) -> Outcome:
    return sweep(graph, Rule("separable", _match, _check, _rewrite))
