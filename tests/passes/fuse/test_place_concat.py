import torch

from optgraph.ir.graph import Graph
from optgraph.ir.values import BATCH, Value
from optgraph.ops import Concat, Reduce
from optgraph.passes.fuse import bottleneck, epilogue, merge_siblings, place_concat
from optgraph.plan.lowering import lower
from optgraph.plan.plans import Plans
from optgraph.run import reference
from optgraph.run.engine import Engine
from tests.support.networks import Builder, difference, inception_a, of_kind


def placed(graph: Graph):
    after = graph.copy()
    outcome = place_concat.run(after)
    assert difference(graph, after) < 1e-12
    return [node.op.in_place for node in of_kind(after, "Concat")], outcome


def test_producers_write_into_the_concat():
    graph = inception_a()
    epilogue.run(graph)
    merge_siblings.run(graph)
    assert of_kind(graph, "MergedPointwise")
    flags, outcome = placed(graph)
    assert outcome.rewrites == 1 and not outcome.refusals and flags == [(True,) * 4]


def test_placing_again_changes_nothing():
    graph = inception_a()
    place_concat.run(graph)
    assert place_concat.run(graph).rewrites == 0


def test_other_readers_do_not_matter():
    b = Builder()
    y = b.conv(b.x, 5)
    flags, _ = placed(b.done(b.concat(y, b.pool(b.x)), b.conv(y, 3)))
    assert flags == [(True, True)]


def test_inputs_are_judged_one_by_one():
    b = Builder()
    inner = b.concat(b.act(b.x), b.affine(b.x))
    output = b.conv(b.x, 5)
    flags, outcome = placed(b.done(b.concat(b.x, inner, output, b.pool(b.x)), b.conv(inner, 2), output))
    assert outcome.rewrites == 2 and flags == [(True, True), (False, True, True, True)]


def test_a_value_lives_in_one_place():
    b = Builder()
    y, z = b.conv(b.x, 5), b.conv(b.x, 4)
    first = b.concat(y, y)
    flags, outcome = placed(b.done(b.concat(first, y, z), b.conv(first, 2)))
    assert outcome.rewrites == 2 and flags == [(True, False), (True, False, True)]


def test_dense_blocks_grow_in_one_buffer():
    b = Builder()
    y = b.conv(b.x, 4)
    for _ in range(3):
        y = b.concat(y, b.conv(y, 3, 3))
    graph = b.done(b.conv(y, 2))
    flags, outcome = placed(graph)
    assert outcome.rewrites == 3 and flags == [(True, True)] * 3
    place_concat.run(graph)
    plan = lower(graph)
    assert plan.launches_by_kernel() == {"conv2d": 3, "pointwise": 2}
    views = [plan.results[node.output] for node in of_kind(graph, "Concat")]
    assert {(view.base, view.offset) for view in views} == {(y, 0)}
    assert [view.shape[1] for view in views] == [7, 10, 13]
    x = torch.randn(2, 12, 9, 9)
    expected = reference.run(graph, {"x": x}, torch.float64)["y0"]
    actual = Engine(Plans(graph, "fp32"), torch.device("cpu"))({"x": x}, len(x))["y0"]
    assert (actual - expected).norm() < 1e-6 * expected.norm()


def test_what_a_bottleneck_reads_beside_its_convolution_is_placed():
    b = Builder(channels=16)
    y, z = b.conv(b.x, 5), b.conv(b.x, 4)
    graph = b.done(b.conv(b.concat(y, z, b.conv(b.x, 6, 3)), 7), b.conv(b.concat(b.x, b.conv(b.x, 6, 3)), 7))
    assert bottleneck.run(graph).rewrites == 2
    after, outcome = graph.copy(), place_concat.run(graph)
    assert difference(after, graph) < 1e-12
    assert outcome.rewrites == 2 and [r.reason for r in outcome.refusals] == ["'x' is a graph input or a constant"]
    assert of_kind(graph, "Concat")[0].op.in_place == (True, True)
    assert {n.op.rest_in_place for n in of_kind(graph, "Bottleneck")} == {True, False}


def test_refuses_with_the_reason():
    b = Builder()
    graph = b.done(b.concat(b.x, b.x))
    flags, outcome = placed(graph)
    assert flags == [()] and [r.reason for r in outcome.refusals] == ["'x' is a graph input or a constant"]
    b = Builder()
    flags, outcome = placed(b.done(b.concat(b.concat(b.x, b.x), b.x)))
    assert flags == [(), (True, False)]
    (refusal,) = outcome.refusals
    assert refusal.reason == "'x' is a graph input or a constant"
    b = Builder()
    total = b.graph.add(Reduce(mode="sum", axes=(1,), keepdims=True), (b.x,)).output
    flags, outcome = placed(b.done(b.concat(total, b.x)))
    assert flags == [()] and outcome.refusals[0].reason == "'reduce' (Reduce) cannot write into a channel slice"
    b = Builder()
    first, second = b.conv(b.x, 5), b.conv(b.x, 4)
    flags, outcome = placed(b.done(b.concat(first, second), b.concat(second, first)))
    assert sorted(flags) == [(), (True, True)]
    (refusal,) = outcome.refusals
    assert " is placed in 'concat" in refusal.reason


def test_refuses_another_axis_and_rank():
    b = Builder()
    y = b.graph.add(Concat(axis=2), (b.conv(b.x, 5), b.conv(b.x, 5))).output
    flags, outcome = placed(b.done(y))
    assert flags == [()] and outcome.refusals[0].reason == "not a concatenation of the channels of 4-D values"
    b = Builder()
    x = b.graph.add_input("flat", Value((BATCH, 6)))
    graph = b.done(b.concat(b.act(x), b.act(x)))
    outcome = place_concat.run(graph)
    assert [r.reason for r in outcome.refusals] == ["not a concatenation of the channels of 4-D values"]
