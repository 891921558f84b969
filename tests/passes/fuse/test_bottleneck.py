from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from optgraph.ahead.build import find_uses
from optgraph.base.devices import SM_90
from optgraph.ir.graph import Graph
from optgraph.ir.values import RELU, Act, Value
from optgraph.ops import Conv
from optgraph.ops import bottleneck as operator
from optgraph.passes import pipeline
from optgraph.passes.fuse import bottleneck, epilogue
from optgraph.plan.lowering import lower
from optgraph.plan.plans import Plans
from optgraph.run import reference
from optgraph.run.engine import Engine
from tests.support.networks import Builder, difference, kinds, of_kind
from tests.support.simplify_checks import applied, refusal

SIGMOID = Act("sigmoid")


def fused(graph: Graph):
    return applied(bottleneck.run, graph)


def refused(graph: Graph) -> str:
    return refusal(bottleneck.run, graph)


def resnet(stride: int = 1, channels: int = 20) -> Graph:
    """1×1, 3×3, 1×1 and the sum with the input."""
    b = Builder(channels=channels)
    x = b.act(b.conv(b.x, 40, stride=stride))
    y = b.act(b.conv(b.act(b.conv(b.act(b.conv(b.x, 16)), 24, 3, stride)), 40))
    return b.done(b.act(b.add(x, y)))


def inception_resnet(order: str = "abc") -> Graph:
    """Block 35 at a fraction of its channels: a is 1×1, b ends in a 3×3, c in a bigger one."""
    b = Builder(channels=20)

    def conv(x: str, channels: int, kernel: int = 1) -> str:
        return b.act(b.conv(x, channels, kernel))

    x = conv(b.x, 40)
    branches = {"a": conv(x, 8), "b": conv(conv(x, 16), 8, 3), "c": conv(conv(x, 24), 16, 3)}
    x = b.act(b.add(x, b.conv(b.concat(*(branches[name] for name in order)), 40)))
    return b.done(conv(x, 6))


# ---- the rewrite


def test_convolution_and_1x1_become_one():
    graph = resnet(stride=2)
    epilogue.run(graph)
    after, outcome = fused(graph)
    assert outcome.rewrites == 1 and kinds(after) == {"Conv": 2, "Bottleneck": 1}
    (node,) = of_kind(after, "Bottleneck")
    op = node.op
    assert (op.kernel, op.stride, op.pads) == ((3, 3), (2, 2), (1, 1, 1, 1))
    assert (op.mid, op.act, op.post) == (RELU, RELU, RELU)
    assert node.get("residual") and not node.get("rest") and len(node.origin) == 6


def test_every_field_and_input_survives():
    b = Builder(channels=16)
    r = b.conv(b.x, 21, 3, stride=2)
    y = b.act(b.conv(b.x, 24, (1, 7), stride=2), SIGMOID)
    graph = b.done(b.act(b.add(b.act(b.conv(y, 21)), r), SIGMOID), r)
    epilogue.run(graph)
    conv = next(node for node in graph.nodes() if node.op.kernel == (1, 7))
    vectors = {"pre_scale": b.constant(16, mean=1.0), "pre_shift": b.constant(16)}
    graph.update(conv, replace(conv.op, pre_act=RELU), conv.inputs_with(**vectors))
    after, outcome = fused(graph)
    assert outcome.rewrites == 1
    (node,) = of_kind(after, "Bottleneck")
    assert (node.op.pre_act, node.op.mid, node.op.act, node.op.post) == (RELU, SIGMOID, RELU, SIGMOID)
    assert (node.op.kernel, node.op.stride, node.op.pads) == ((1, 7), (2, 2), (0, 3, 0, 3))
    assert node.get("residual") == r and all(node.inputs[:8])


def test_keeps_dilation():
    b = Builder(channels=16)
    op = Conv(kernel=(3, 3), dilation=(2, 1))
    y = b.graph.add(op, (b.x, b.constant(6, 16, 3, 3), "")).output
    after, outcome = fused(b.done(b.conv(y, 5)))
    assert outcome.rewrites == 1 and of_kind(after, "Bottleneck")[0].op.dilation == (2, 1)


@pytest.mark.parametrize("order, rest_first, rest", [("abc", True, 16), ("cab", False, 16), ("ac", True, 8)])
def test_the_bigger_end_of_a_concatenation_is_taken(order: str, rest_first: bool, rest: int):
    graph = inception_resnet(order)
    epilogue.run(graph)
    after, outcome = fused(graph)
    assert outcome.rewrites == 1 and kinds(after)["Concat"] == (len(order) > 2)
    (node,) = of_kind(after, "Bottleneck")
    assert after.shape(node.get("conv_w"))[:2] == (16, 24)
    assert node.op.rest_first == rest_first and after.shape(node.get("rest"))[1] == rest
    assert "concat" in node.origin and all(n.origin for n in after.nodes())


def test_what_is_in_the_middle_of_a_concatenation_stays():
    graph = inception_resnet("acb")
    epilogue.run(graph)
    after, outcome = fused(graph)
    assert outcome.rewrites == 1
    (node,) = of_kind(after, "Bottleneck")
    assert after.shape(node.get("conv_w"))[:2] == (8, 16)


def test_a_concatenation_of_one_part():
    b = Builder(channels=16)
    after, outcome = fused(b.done(b.conv(b.concat(b.conv(b.x, 16, 3)), 5)))
    assert outcome.rewrites == 1 and kinds(after) == {"Bottleneck": 1}
    assert not of_kind(after, "Bottleneck")[0].get("rest")


def test_refuses_a_value_needed_elsewhere():
    b = Builder(channels=16)
    y = b.conv(b.x, 24, 3)
    assert "is also needed elsewhere" in refused(b.done(b.conv(y, 5), y))
    b = Builder(channels=16)
    y = b.conv(b.x, 24, 3)
    assert "is also needed elsewhere" in refused(b.done(b.conv(b.concat(y, y), 5)))
    b = Builder(channels=16)
    y = b.concat(b.conv(b.x, 24), b.conv(b.x, 24, 3))
    assert refused(b.done(b.conv(y, 5), b.conv(y, 6, 3))) == "the concatenation is also needed elsewhere"


def test_refuses_an_addition_between():
    b = Builder(channels=16)
    graph = b.done(b.conv(b.add(b.conv(b.x, 16, 3), b.x), 5))
    epilogue.run(graph)
    assert refused(graph) == "something is added between the two convolutions"


def test_refuses_a_strided_1x1():
    b = Builder(channels=16)
    assert refused(b.done(b.conv(b.conv(b.x, 24, 3), 5, stride=2))) == "the 1×1 convolution has a stride"


def test_refuses_a_prologue_between():
    b = Builder(channels=16)
    graph = b.done(b.conv(b.conv(b.x, 24, 3), 5, pre_act=RELU))
    assert refused(graph) == "the 1×1 convolution has a prologue"


def test_refuses_what_a_tile_cannot_hold():
    b = Builder(channels=16, size=3)
    assert refused(b.done(b.conv(b.conv(b.x, 257, 3), 5))).startswith("257 and 0 channels")
    b = Builder(channels=16, size=3)
    graph = b.done(b.conv(b.concat(b.conv(b.x, 300), b.conv(b.x, 16, 3)), 5))
    assert refused(graph).startswith("16 and 300 channels")


def test_refuses_few_input_channels():
    b = Builder(channels=3)
    assert refused(b.done(b.conv(b.conv(b.x, 24, 3), 5))) == "the convolution has fewer than 16 input channels"


def test_refuses_a_constant_part():
    b = Builder(channels=16)
    b.graph.values["x"] = Value((2, 16, 9, 9))  # a constant has a batch of its own
    graph = b.done(b.conv(b.concat(b.constant(2, 3, 9, 9), b.conv(b.x, 24, 3)), 5))
    assert refused(graph) == "the concatenation joins a constant"


def test_refuses_computed_weights():
    b = Builder(channels=16)
    bias = b.act(b.constant(24))
    y = b.graph.add(Conv(kernel=(3, 3)), (b.x, b.constant(24, 16, 3, 3), bias)).output
    assert refused(b.done(b.conv(y, 5))) == "its weights are computed, not constant"


def test_grouped_and_1x1_convolutions_do_not_match():
    b = Builder(channels=16)
    y, z = b.conv(b.conv(b.x, 16, 3, groups=4), 5), b.conv(b.conv(b.x, 16), 5)
    _, outcome = fused(b.done(y, z))
    assert outcome.rewrites == 0 and not outcome.refusals


# ---- lowering: one launch or two


def forms(graph: Graph, batch: int, monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, int], torch.Tensor]]:
    """Launches and answer in two launches each, and in one each."""
    x = torch.randn(batch, *map(int, graph.shape("x")[1:]), generator=torch.Generator().manual_seed(1))
    found = []
    for one in (False, True):
        monkeypatch.setattr(operator, "pays", lambda *_, one=one, **__: one)
        launches = lower(graph, batch).launches_by_kernel()
        found.append((launches, Engine(Plans(graph, "fp32"), torch.device("cpu"))({"x": x}, len(x))["y0"]))
    expected = reference.run(graph, {"x": x}, torch.float64)["y0"]
    for _, y in found:
        assert (y - expected).norm() < 2e-6 * expected.norm()
    return found


@pytest.mark.parametrize("order", ["abc", "cab", "ac"])
def test_one_launch_and_two_give_the_same(order: str, monkeypatch: pytest.MonkeyPatch):
    graph = inception_resnet(order)
    pipeline.apply(graph, pipeline.FUSE)
    (two, y), (one, z) = forms(graph, 3, monkeypatch)
    assert "bottleneck" not in two and one["bottleneck"] == 1 and "elementwise" not in two | one
    assert sum(one.values()) == sum(two.values()) - 1
    assert (y - z).norm() < 1e-6 * y.norm()


def test_two_launches_join_a_value_that_lives_elsewhere_by_a_copy(monkeypatch: pytest.MonkeyPatch):
    b = Builder(channels=16)
    graph = b.done(b.act(b.conv(b.concat(b.x, b.act(b.conv(b.x, 16, 3))), 20)))
    pipeline.apply(graph, pipeline.FUSE)
    (two, _), (one, _) = forms(graph, 2, monkeypatch)
    assert two == {"conv2d": 1, "elementwise": 1, "pointwise": 1}
    assert one == {"bottleneck": 1, "elementwise": 2}  # a model input is NCHW: as x and as rest it is laid out anew


def test_the_hidden_value_joins_the_rest_in_one_buffer():
    graph = inception_resnet()
    pipeline.apply(graph, pipeline.FUSE)
    (node,) = of_kind(graph, "Bottleneck")
    assert node.op.rest_in_place
    plan = lower(graph)
    conv, pointwise = (call for call in plan.calls if call.node == node.name)
    rest, hidden, whole = plan.results[node.get("rest")], conv.arguments["out"], pointwise.arguments["x"]
    assert rest.base == hidden.base == whole.base
    assert (rest.offset, hidden.offset, whole.shape[3]) == (0, 16, 32)
    assert rest.strides == whole.permute(0, 3, 1, 2).strides


def bottlenecks(channels: int, size: int) -> Graph:
    b = Builder(channels=64, size=size)
    x = b.x
    for _ in range(2):
        x = b.conv(b.act(b.conv(b.act(b.conv(x, channels)), channels, 3)), 4 * channels)
    graph = b.done(x)
    pipeline.apply(graph, pipeline.FUSE)
    return graph


def test_the_batch_decides():
    graph = bottlenecks(64, size=56)
    counts = {batch: lower(graph, batch, "fp16").launches_by_kernel() for batch in (1, 64)}
    assert counts == {1: {"conv2d": 2, "pointwise": 4}, 64: {"bottleneck": 2, "pointwise": 2}}
    assert "bottleneck" not in lower(graph, 64, "fp32").launches_by_kernel()


def test_one_launch_saves_writing_and_reading_what_lies_between(monkeypatch: pytest.MonkeyPatch):
    graph = bottlenecks(32, size=24)
    moved = []
    for one in (False, True):
        monkeypatch.setattr(operator, "pays", lambda *_, one=one, **__: one)
        calls = lower(graph, 3, "fp16").calls
        moved.append(sum(view.bytes for call in calls for view in call.views()))
    assert moved[0] - moved[1] == 2 * 2 * (3 * 24 * 24 * 32) * 2  # two values, two bytes each, written and read


def test_batches_that_share_kernels_decide_alike():
    graph = bottlenecks(64, size=56)
    for batch in (23, 32, 64, 100, 128):
        assert lower(graph, batch, "fp16").launches_by_kernel()["bottleneck"] == 2


def test_few_variants_serve_all_layers_and_batches():
    uses = find_uses(Plans(bottlenecks(64, size=56), "fp16"), (23, 64), [SM_90])
    assert [use.launches for use in uses if use.variant.kernel == "bottleneck"] == [
        {1: 0, 8: 2, 23: 0, 64: 0},
        {1: 0, 8: 0, 23: 2, 64: 2},
    ]


def test_reference_is_the_chain():
    for order in ("abc", "cab"):
        graph = inception_resnet(order)
        after = graph.copy()
        epilogue.run(after)
        bottleneck.run(after)
        assert difference(graph, after) < 1e-12
