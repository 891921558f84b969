"""What rounds an image to a grid becomes the first thing that its stem does.

    conv(fake_quantize{g}(x))  ->  conv{onto=g}(x)

so that the pixels of a model of 8 bits are not written once more as int8: no operator before them could round them.

Legal: the rounded image is read by the convolution only and is no graph output; the convolution is dense, no 1×1, and
has no prologue. It rounds a number once for each tap that sees it, so it pays for few taps at a stride, and for so few
channels as the kernel fetches one by one: where there are more, it has blocks of them copied as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from optgraph.ir.graph import Graph, Node
from optgraph.kernels.conv2d import flattens
from optgraph.ops import Conv, FakeQuantize
from optgraph.passes.rewrite import Outcome, Rule, sweep

MOST_TIMES = 4  # that a number is rounded


@dataclass(frozen=True)
class _Found:
    rounding: Node
    conv: Node


def _match(graph: Graph, node: Node) -> _Found | None:
    producer = graph.producer(node.inputs[0]) if isinstance(node.op, Conv) else None
    return _Found(producer, node) if producer is not None and isinstance(producer.op, FakeQuantize) else None


def _check(graph: Graph, found: _Found) -> str | None:
    op, weight = found.conv.op, graph.shape(found.conv.get("w"))
    assert isinstance(op, Conv)
    if graph.sole_user(found.rounding.output) is None:
        return "the rounded image is also needed elsewhere"
    if op.groups > 1 or op.pointwise:
        return "a 1×1 convolution or one of groups rounds nothing that it reads"
    if op.pre_act or found.conv.get("pre_scale") or found.conv.get("pre_shift"):
        return "the convolution has a prologue"
    if not flattens(int(weight[1]), op.window):
        return f"the convolution has {weight[1]} input channels, of which the kernel copies blocks as they are"
    if (times := math.ceil(op.window.taps / math.prod(op.stride))) > MOST_TIMES:
        return f"the convolution would round a number {times} times"
    return None


def _rewrite(graph: Graph, found: _Found) -> None:
    rounding, conv = found.rounding, found.conv
    assert isinstance(rounding.op, FakeQuantize) and isinstance(conv.op, Conv)
    inputs = conv.inputs_with(x=rounding.inputs[0])
    graph.update(conv, replace(conv.op, onto=(rounding.op.quant,)), inputs, rounding.origin, same_value=True)
    graph.remove(rounding)


def run(graph: Graph) -> Outcome:
    return sweep(graph, Rule("round input", _match, _check, _rewrite))
