"""A Pad before a convolution or a pool becomes its own padding.

    conv(pad(x, p, 0), q)      ->  conv(x, p + q)
    average(pad(x, p, 0))      ->  average(x, p), counting padded pixels
    max(pad(x, p, v), q)       ->  max(x, p + q)
    conv(fake_quantize(pad(x, p, 0)), q)  ->  conv(fake_quantize(x), p + q), and so for an average

Legal: the padding is of height and width and does not crop. Its value is what the operator itself pads with: 0, or for
a max pool anything that cannot win (-inf, or no more than any x: 0 after a Relu) while every window sees a pixel of x.
Nor can the edge repeated win, for a window without dilation that sees the repeated pixel sees the edge itself.
An average pool counts the pixels of its own padding, if it has any. A pool's padding stays below its window. Every grid
has 0 on it, so that a rounding between the two makes no difference; what is rounded is read by nobody else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from optgraph.ir.graph import Graph, Node
from optgraph.ir.values import Pads
from optgraph.ops import Activation, Conv, FakeQuantize, Pad, Pool
from optgraph.passes.rewrite import Outcome, Rule, sweep


@dataclass(frozen=True)
class _Found:
    pad: Node
    value: float
    window: Node
    pads: Pads  # of both together
    rounding: Node | None  # between them


def _match(graph: Graph, node: Node) -> _Found | None:
    pad, rounding = graph.producer(node.inputs[0]) if isinstance(node.op, Conv | Pool) else None, None
    if pad is not None and isinstance(pad.op, FakeQuantize):
        pad, rounding = graph.producer(pad.inputs[0]), pad
    if pad is None or not isinstance(pad.op, Pad):
        return None
    assert isinstance(node.op, Conv | Pool)
    outer, own = pad.op.pads, node.op.pads
    pads = (outer[2] + own[0], outer[3] + own[1], outer[6] + own[2], outer[7] + own[3])
    return _Found(pad, pad.op.value, node, pads, rounding)


def _check(graph: Graph, found: _Found) -> str | None:
    pad, op = found.pad.op, found.window.op
    assert isinstance(pad, Pad) and isinstance(op, Conv | Pool)
    if any(pad.pads[i] for i in (0, 1, 4, 5)):
        return "it pads batch or channels"
    if min(pad.pads) < 0:
        return "it crops"
    if op.pre_act or (isinstance(op, Conv) and (found.window.get("pre_scale") or found.window.get("pre_shift"))):
        return f"'{found.window.name}' has a prologue, which the padding would skip"
    if isinstance(op, Pool) and any(p >= k for p, k in zip(found.pads, (*op.kernel, *op.kernel), strict=True)):
        return "a window would lie in the padding altogether"
    if found.rounding is not None and graph.sole_user(found.rounding.output) is None:
        return f"the output of '{found.rounding.name}' is also needed elsewhere"
    if isinstance(op, Pool) and op.mode == "max":
        return "what it pads with is rounded to a grid" if found.rounding else _check_max(graph, found, op)
    if pad.mode != "constant":
        return "it repeats the edge" if pad.mode == "edge" else "it repeats pixels"
    if found.value != 0.0:
        return f"it pads with {found.value}, not 0"
    if isinstance(op, Pool) and any(op.pads) and not op.count_include_pad:
        return "the average pool has padding that does not count"
    return None


def _check_max(graph: Graph, found: _Found, op: Pool) -> str | None:
    assert isinstance(found.pad.op, Pad)
    if found.pad.op.mode != "constant":  # no more than pixels that are there; a window of the edge sees one of them
        if found.pad.op.mode != "edge":
            return "it repeats pixels from further in"
        return "a dilated window may see the repeated edge only" if op.dilation != (1, 1) else None
    if found.value == -math.inf:
        return None
    if found.value > lower_bound(graph, found.pad.inputs[0]):
        return f"the padding {found.value} may be the maximum"
    if op.dilation != (1, 1):
        return "a dilated window may see padding only"
    return None


def lower_bound(graph: Graph, value: str) -> float:
    """A number that no element is below, as far as the operator that computes `value` tells."""
    node = graph.producer(value)
    if node is None or not isinstance(node.op, Activation):
        return -math.inf
    act = node.op.act
    if act.kind == "clip":
        return min(act.a, act.b)
    return {"relu": 0.0, "sigmoid": 0.0, "hard_sigmoid": 0.0, "tanh": -1.0}.get(act.kind, -math.inf)


def _rewrite(graph: Graph, found: _Found) -> None:
    window, op = found.window, found.window.op
    assert isinstance(op, Conv | Pool)
    changed: Conv | Pool = replace(op, pads=found.pads)
    if isinstance(changed, Pool) and changed.mode == "average":
        changed = replace(changed, count_include_pad=True)
    x, rounding = found.pad.inputs[0], found.rounding
    if rounding is not None:
        x = graph.add(rounding.op, [x], name=rounding.name, origin=rounding.origin).output
    graph.update(window, changed, (x, *window.inputs[1:]), found.pad.origin, same_value=True)
    if rounding is not None:
        graph.remove(rounding)
    if not graph.users(found.pad.output) and not graph.is_output(found.pad.output):
        graph.remove(found.pad)


def run(graph: Graph) -> Outcome:
    return sweep(graph, Rule("fold padding", _match, _check, _rewrite))
