from dataclasses import replace

import pytest

from optgraph.ir.graph import Graph
from optgraph.ir.values import IDENTITY, RELU, Act, Segment
from optgraph.passes.fuse import commute_average_pool, epilogue, merge_siblings, prologue
from tests.support.networks import (
    Builder,
    difference,
    inception_a,
    inception_resnet,
    kinds,
    of_kind,
    preactivation_resnet,
)

SIGMOID = Act("sigmoid")


def merged(graph: Graph):
    after = graph.copy()
    outcome = merge_siblings.run(after)
    assert difference(graph, after) < 1e-12
    return after, outcome


def test_merges_with_an_activation_each():
    b = Builder()
    y = b.conv(b.x, 5, act=RELU), b.conv(b.x, 7), b.conv(b.x, 6, act=RELU, bias=False)
    graph = b.done(*y, b.conv(b.x, 4, 3))
    after, outcome = merged(graph)
    (node,) = of_kind(after, "MergedPointwise")
    assert outcome.rewrites == 1 and not outcome.refusals and kinds(after)["Conv"] == 1
    assert node.op.segments == (Segment(7), Segment(6, RELU), Segment(5, RELU))
    assert node.inputs[:3] == ("x", "", "") and node.inputs[6] == "" and len(node.origin) == 3
    assert set(after.constants) == set(graph.constants)


@pytest.mark.parametrize(("count", "sizes"), [(4, [4]), (5, [3, 2]), (9, [3, 3, 3])])
def test_groups_of_at_most_four(count, sizes):
    b = Builder()
    after, outcome = merged(b.done(*(b.conv(b.x, 3 + i) for i in range(count))))
    assert outcome.rewrites == len(sizes) and kinds(after) == {"MergedPointwise": len(sizes)}
    assert [len(node.outputs) for node in after.nodes()] == sizes


def test_the_order_of_nodes_decides_nothing():
    graphs = []
    for channels in ((5, 7, 6, 3, 4), (3, 4, 6, 7, 5)):
        b = Builder()
        graphs.append(merged(b.done(*(b.conv(b.x, c, act=RELU) for c in channels)))[0])
    first, second = ({node.op for node in graph.nodes()} for graph in graphs)
    assert first == second


def test_prologue_and_stride_must_be_equal():
    b = Builder()
    pairs = [b.conv(b.x, 4, stride=stride, pre_act=act) for stride in (1, 2) for act in (IDENTITY, RELU) for _ in "ab"]
    after, outcome = merged(b.done(*pairs))
    assert outcome.rewrites == 4 and kinds(after) == {"MergedPointwise": 4}
    assert {(node.op.stride, node.op.pre_act) for node in after.nodes()} == {
        ((1, 1), IDENTITY),
        ((1, 1), RELU),
        ((2, 2), IDENTITY),
        ((2, 2), RELU),
    }


def test_another_affine_prologue_makes_no_sibling():
    b = Builder()
    graph = b.done(*(b.conv(b.affine(b.x), 4) for _ in range(2)))
    assert prologue.run(graph).rewrites == 2
    after, outcome = merged(graph)
    assert outcome.rewrites == 0 and kinds(after) == {"Conv": 2}


def test_other_activation_stays_outside():
    b = Builder()
    y = [b.conv(b.x, 5, act=act) for act in (RELU, SIGMOID, RELU, IDENTITY)]
    after, outcome = merged(b.done(*y))
    (node,) = of_kind(after, "MergedPointwise")
    assert outcome.rewrites == 1 and len(node.outputs) == 3
    assert [r.reason for r in outcome.refusals] == ["its activation sigmoid is not its siblings' relu"]
    assert of_kind(after, "Conv")[0].op.act == SIGMOID


def test_residual_from_a_sibling_would_close_a_cycle():
    b = Builder()
    first, second = b.conv(b.x, 5), b.conv(b.x, 5)
    graph = b.done(b.add(second, first), b.conv(first, 3, 3))
    epilogue.run(graph)
    assert graph.producer(second).get("residual") == first
    after, outcome = merged(graph)
    assert outcome.rewrites == 0 and kinds(after)["Conv"] == 3
    assert [r.reason for r in outcome.refusals] == ["it adds a residual, which may depend on a sibling"]


def test_computed_weights_stay():
    b = Builder(channels=4)
    w = b.graph.add_input("w", b.graph.values[b.constant(5, 4, 1, 1)])
    graph = b.done(b.conv(b.x, 5), b.conv(b.x, 5))
    conv = graph.nodes()[0]
    graph.update(conv, inputs=conv.inputs_with(w=w))
    outcome = merge_siblings.run(graph)
    assert outcome.rewrites == 0
    assert [r.reason for r in outcome.refusals] == ["its weights are computed and may depend on a sibling"]


def test_wider_padded_and_grouped_convolutions_do_not_match():
    b = Builder(channels=6)
    graph = b.done(b.conv(b.x, 5, 3), b.conv(b.x, 5, 3), b.conv(b.x, 6, groups=2), b.conv(b.x, 6, groups=2))
    padded = b.graph.add(replace(graph.nodes()[0].op, kernel=(1, 1)), ("x", b.constant(5, 6, 1, 1)))
    graph.outputs["padded"] = padded.output
    _, outcome = merged(graph)
    assert outcome.rewrites == 0 and not outcome.refusals


def test_networks():
    graph = inception_a()
    epilogue.run(graph)
    commute_average_pool.run(graph)
    after, outcome = merged(graph)
    (node,) = of_kind(after, "MergedPointwise")
    assert outcome.rewrites == 1
    assert node.op.segments == (Segment(8, RELU), Segment(6, RELU), Segment(5, RELU), Segment(4))
    graph = inception_resnet()
    epilogue.run(graph)
    after, outcome = merged(graph)
    assert outcome.rewrites == 1 and kinds(after) == {"MergedPointwise": 1, "Conv": 6, "Concat": 1}
    graph = preactivation_resnet()
    epilogue.run(graph)
    prologue.run(graph)
    after, outcome = merged(graph)
    (node,) = of_kind(after, "MergedPointwise")
    assert node.op.pre_act == RELU and node.get("pre_scale") and node.get("pre_shift")
    assert node.op.segments == (Segment(8), Segment(4, RELU))
