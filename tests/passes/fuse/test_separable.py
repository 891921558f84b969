from dataclasses import replace

import pytest
import torch

from optgraph.base.devices import SM_90
from optgraph.ir.graph import Graph
from optgraph.ir.values import IDENTITY, RELU, Act
from optgraph.ops import Conv
from optgraph.passes import pipeline
from optgraph.passes.fuse import epilogue, separable
from optgraph.plan.lowering import lower
from optgraph.plan.plans import Plans
from optgraph.run import reference
from optgraph.run.engine import Engine
from tests.support.networks import Builder, difference, kinds, of_kind, xception

SIGMOID = Act("sigmoid")


def fused(graph: Graph):
    after = graph.copy()
    outcome = separable.run(after)
    assert difference(graph, after) < 1e-12
    return after, outcome


def refused(graph: Graph) -> str:
    after, outcome = fused(graph)
    assert outcome.rewrites == 0 and not of_kind(after, "Separable")
    (refusal,) = outcome.refusals
    return refusal.reason


def test_fuses_with_everything_around_it():
    b = Builder(channels=6)
    r = b.conv(b.x, 5, 3, stride=2)
    y = b.act(b.depthwise(b.x, kernel=5, stride=2, bias=True), SIGMOID)
    graph = b.done(b.act(b.add(b.act(b.conv(y, 5)), r), SIGMOID), r)
    epilogue.run(graph)
    depthwise = next(node for node in graph.nodes() if node.op.groups > 1)
    graph.update(
        depthwise,
        replace(depthwise.op, pre_act=RELU),
        depthwise.inputs_with(pre_scale=b.constant(6, mean=1.0), pre_shift=b.constant(6)),
    )
    after, outcome = fused(graph)
    assert outcome.rewrites == 1 and kinds(after) == {"Conv": 1, "Separable": 1}
    (node,) = of_kind(after, "Separable")
    assert node.op.kernel == (5, 5) and node.op.stride == (2, 2) and node.op.pads == (2, 2, 2, 2)
    assert (node.op.pre_act, node.op.mid, node.op.act, node.op.post) == (RELU, SIGMOID, RELU, SIGMOID)
    assert all(node.inputs[:8]) and node.get("residual") == r
    assert len(node.origin) == 6


def test_keeps_dilation():
    b = Builder(channels=6)
    op = Conv(kernel=(3, 3), dilation=(2, 1), groups=6)
    y = b.graph.add(op, (b.x, b.constant(6, 1, 3, 3), "")).output
    after, outcome = fused(b.done(b.conv(y, 5)))
    assert outcome.rewrites == 1 and of_kind(after, "Separable")[0].op.dilation == (2, 1)


def test_network():
    graph = xception()
    epilogue.run(graph)
    after, outcome = fused(graph)
    assert outcome.rewrites == 6 and kinds(after)["Separable"] == 6 and kinds(after)["Conv"] == 2
    assert all(node.op.mid == IDENTITY for node in of_kind(after, "Separable"))


def test_refuses_a_value_needed_elsewhere():
    b = Builder()
    y = b.depthwise(b.x)
    assert refused(b.done(b.conv(y, 5), y)) == "the depthwise output is also needed elsewhere"


def test_refuses_a_channel_multiplier():
    b = Builder(channels=6)
    y = b.conv(b.x, 12, 3, groups=6)
    assert refused(b.done(b.conv(y, 5))) == "the depthwise convolution has several filters a channel"


def test_refuses_an_addition_between():
    b = Builder(channels=6)
    graph = b.done(b.conv(b.add(b.depthwise(b.x), b.x), 5))
    epilogue.run(graph)
    assert refused(graph) == "something is added between the two convolutions"


def test_refuses_a_strided_pointwise():
    b = Builder()
    assert refused(b.done(b.conv(b.depthwise(b.x), 5, stride=2))) == "the pointwise convolution has a stride"


def test_refuses_a_prologue_between():
    b = Builder()
    graph = b.done(b.conv(b.depthwise(b.x), 5, pre_act=RELU))
    assert refused(graph) == "the pointwise convolution has a prologue"


def test_grouped_convolution_does_not_match():
    b = Builder(channels=6)
    _, outcome = fused(b.done(b.conv(b.conv(b.x, 6, 3, groups=3), 5), b.conv(b.depthwise(b.x), 5, 3)))
    assert outcome.rewrites == 0 and not outcome.refusals


# ---- lowering: one launch or two


def test_one_launch_and_two_give_the_same(monkeypatch: pytest.MonkeyPatch):
    b = Builder(channels=12, size=9)
    r = b.conv(b.x, 10, 3, stride=2)
    y = b.prelu(b.depthwise(b.act(b.conv(b.x, 6, 1)), kernel=5, stride=2, bias=True))
    graph = b.done(b.act(b.add(b.act(b.conv(y, 10), SIGMOID), r)), r)
    pipeline.apply(graph, pipeline.FUSE)
    assert kinds(graph)["Separable"] == 1
    x = torch.randn(3, 12, 9, 9, generator=torch.Generator().manual_seed(1))
    expected = reference.run(graph, {"x": x}, torch.float64)["y0"]
    found = []
    for one in (True, False):
        monkeypatch.setattr("optgraph.kernels.separable.pays", lambda *_, one=one, **__: one)
        y = Engine(Plans(graph, "fp32"), torch.device("cpu"))({"x": x}, len(x))["y0"]
        assert (y - expected).norm() < 2e-6 * expected.norm()
        found.append(lower(graph, 3).launches_by_kernel())
    one, two = found
    assert one["separable"] == 1 and "separable" not in two
    assert two["depthwise"] == 1 and two["pointwise"] == one["pointwise"] + 1


def test_two_launches_where_the_target_is_predicted_to_gain():
    b = Builder(channels=512, size=19)
    graph = b.done(b.conv(b.depthwise(b.conv(b.x, 512, 1)), 512, 1))
    pipeline.apply(graph, pipeline.FUSE)
    assert "separable" not in lower(graph, 8, "fp16", SM_90).launches_by_kernel()
    assert lower(graph, 8, "fp32", SM_90).launches_by_kernel()["separable"] == 1
