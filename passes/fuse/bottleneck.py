"""A dense k×k convolution and the 1×1 convolution after it become one operator.

    conv1x1(mid(conv(pre(x)) + b1))               ->  bottleneck{mid}(x)
    conv1x1(concat(mid(conv(x) + b1), a, ...))    ->  bottleneck{mid}(x, rest=concat(a, ...))
    conv1x1(concat(a, ..., mid(conv(x) + b1)))    ->  bottleneck{mid, rest_first}(x, rest=concat(a, ...))

so that the value between them need not reach memory: ResNet's blocks, and the branch tails of Inception-ResNet. With
one other part, rest is that part and the concatenation goes. The epilogue, a residual included, is that of the 1×1.

Legal: the convolution is dense (groups 1) and no 1×1 itself; its output is read by the 1×1 only, or by a channel
concatenation that only the 1×1 reads, and is first or last there; that 1×1 has stride 1 and no prologue; nothing is
added or rounded between the two; all weights are constant; a tile has room for all channels of either side. No cycle
can arise: what else the 1×1 reads cannot depend on values that only it reads. Of two convolutions that qualify, the one
of more FLOPs goes.

Whether one kernel runs both is decided when batch and target are known (`kernels/bottleneck.pays`): else there are two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from optgraph.ir.graph import Graph, Node
from optgraph.kernels.bottleneck import MAX_CHANNELS, MIN_INPUT_CHANNELS
from optgraph.ops import Bottleneck, Concat, Conv
from optgraph.passes.rewrite import Outcome, Rule, sweep


@dataclass(frozen=True)
class _Found:
    pointwise: Node
    convs: list[Node]  # k×k convolutions before it, the preferred one first
    concat: Node | None


def _match(graph: Graph, node: Node) -> _Found | None:
    if not isinstance(node.op, Conv) or not node.op.pointwise:
        return None
    producer = graph.producer(node.inputs[0])
    concat = producer if producer and isinstance(producer.op, Concat) and producer.op.axis == 1 else None
    ends = dict.fromkeys((concat.inputs[-1], concat.inputs[0]) if concat else (node.inputs[0],))
    convs = [conv for value in ends if (conv := graph.producer(value)) and _is_dense(conv)]
    convs.sort(key=lambda conv: math.prod(map(int, graph.shape(conv.get("w")))), reverse=True)
    return _Found(node, convs, concat) if convs else None


def _is_dense(node: Node) -> bool:
    return isinstance(node.op, Conv) and node.op.groups == 1 and node.op.kernel != (1, 1)


def _obstacle(graph: Graph, found: _Found, conv: Node) -> str | None:
    assert isinstance(conv.op, Conv)
    if graph.sole_user(conv.output) is None:
        return f"the output of '{conv.name}' is also needed elsewhere"
    if conv.get("residual") or conv.op.post:
        return "something is added between the two convolutions"
    if conv.op.quants:
        return "what the convolution gives is rounded to a grid"
    weights = [n.get(slot) for n in (conv, found.pointwise) for slot in ("w", "b")]
    if not all(value in graph.constants for value in weights if value):
        return "its weights are computed, not constant"
    if int(graph.shape(conv.get("w"))[1]) < MIN_INPUT_CHANNELS:
        return f"the convolution has fewer than {MIN_INPUT_CHANNELS} input channels"
    hidden = int(graph.shape(conv.output)[1])
    rest = int(graph.shape(found.pointwise.inputs[0])[1]) - hidden
    if max(hidden, rest) > MAX_CHANNELS:
        return f"{hidden} and {rest} channels between the convolutions, and a tile holds {MAX_CHANNELS} of either"
    return None


def _check(graph: Graph, found: _Found) -> str | None:
    node = found.pointwise
    assert isinstance(node.op, Conv)
    if node.op.stride != (1, 1):
        return "the 1×1 convolution has a stride"
    if node.op.pre_act or node.get("pre_scale") or node.get("pre_shift"):
        return "the 1×1 convolution has a prologue"
    if found.concat and graph.sole_user(found.concat.output) is None:
        return "the concatenation is also needed elsewhere"
    if found.concat and any(value in graph.constants for value in found.concat.inputs):
        return "the concatenation joins a constant"
    reasons = [_obstacle(graph, found, conv) for conv in found.convs]
    return None if None in reasons else reasons[0]


def _rewrite(graph: Graph, found: _Found) -> None:
    conv = next(conv for conv in found.convs if _obstacle(graph, found, conv) is None)
    node, concat = found.pointwise, found.concat
    assert isinstance(node.op, Conv) and isinstance(conv.op, Conv)
    others = [value for value in concat.inputs if value != conv.output] if concat else []
    rest = others[0] if others else ""
    if concat and len(others) > 1:
        rest = graph.add(concat.op, others, name=f"{concat.name}:rest", origin=concat.origin).output
    op = Bottleneck(
        kernel=conv.op.kernel,
        stride=conv.op.stride,
        pads=conv.op.pads,
        dilation=conv.op.dilation,
        pre_act=conv.op.pre_act,
        mid=conv.op.act,
        act=node.op.act,
        post=node.op.post,
        quants=node.op.quants,
        before_residual=node.op.before_residual,
        rest_first=concat is not None and concat.inputs[0] != conv.output,
    )
    inputs = (
        conv.inputs[0],
        conv.get("w"),
        conv.get("b"),
        node.get("w"),
        node.get("b"),
        node.get("residual"),
        conv.get("pre_scale"),
        conv.get("pre_shift"),
        rest,
        node.get("slope"),
        conv.get("slope"),
    )
    graph.replace_node(node, op, inputs, (*conv.origin, *(concat.origin if concat else ())))
    if concat:
        graph.remove(concat)
    graph.remove(conv)


def run(graph: Graph) -> Outcome:
    return sweep(graph, Rule("bottleneck", _match, _check, _rewrite))
