import pytest

from optgraph.ir.graph import Graph
from optgraph.ir.values import RELU, Act
from optgraph.ops import GlobalPool, Reduce
from optgraph.passes.fuse import epilogue, prologue, separable
from tests.support.networks import Builder, difference, kinds, of_kind, preactivation_resnet, xception

SIGMOID = Act("sigmoid")  # sigmoid(0) is not 0: what padding contributes shows


def fused(graph: Graph):
    after = graph.copy()
    outcome = prologue.run(after)
    assert difference(graph, after) < 1e-12
    return after, outcome


def refused(graph: Graph) -> str:
    after, outcome = fused(graph)
    assert outcome.rewrites == 0 and len(after) == len(graph)
    (refusal,) = outcome.refusals
    return refusal.reason


@pytest.mark.parametrize("act", [RELU, SIGMOID])
def test_activation_into_every_reader(act):
    b = Builder()
    y = b.act(b.x, act)
    after, outcome = fused(b.done(b.conv(y, 5, 3), b.depthwise(y), b.pool(y, "max"), b.pool(y), b.conv(b.x, 4)))
    readers = after.users("x")
    assert outcome.rewrites == 1 and len(after) == 5
    assert [node.op.pre_act for node, _ in readers if node.op.pre_act] == [act] * 4
    assert sum(f"act_{b.x}" in node.origin for node, _ in readers) == 4


def test_affine_with_its_activation():
    b = Builder()
    y = b.act(b.affine(b.x), SIGMOID)
    graph = b.done(b.conv(y, 5, 3), b.conv(y, 4), b.conv(b.x, 4))
    epilogue.run(graph)
    after, outcome = fused(graph)
    first, second = (node for node in after.nodes() if node.op.pre_act)
    assert outcome.rewrites == 1 and len(after) == 3 and first.op.pre_act == SIGMOID
    assert first.get("pre_scale") == second.get("pre_scale") != ""
    assert first.get("pre_shift") == second.get("pre_shift") != ""


def test_affine_and_a_separate_activation():
    b = Builder()
    z = b.affine(b.x)
    after, outcome = fused(b.done(b.conv(b.act(z), 5, 3), b.conv(z, 4)))
    assert outcome.rewrites == 2 and kinds(after) == {"Conv": 2}
    assert sorted(bool(node.op.pre_act) for node in after.nodes()) == [False, True]
    assert all(node.get("pre_scale") for node in after.nodes())


def test_networks():
    graph = xception()
    epilogue.run(graph)
    separable.run(graph)
    after, outcome = fused(graph)
    assert outcome.rewrites == 2 and kinds(after) == {"Conv": 2, "Separable": 6, "Pool": 1}
    assert sum(node.op.pre_act == RELU for node in of_kind(after, "Separable")) == 2
    graph = preactivation_resnet()
    epilogue.run(graph)
    after, outcome = fused(graph)
    assert outcome.rewrites == 2 and kinds(after) == {"Conv": 8}
    assert sum(bool(node.get("pre_scale")) for node in after.nodes()) == 3


def test_refuses_if_one_reader_cannot():
    b = Builder()
    y = b.act(b.x)
    total = b.graph.add(Reduce(mode="sum", axes=(1,), keepdims=True), (y,)).output
    assert refused(b.done(b.conv(y, 5), total)) == "'reduce' (Reduce) has no prologue"


@pytest.mark.parametrize("mode", ["average", "max"])
def test_affine_and_activation_before_a_global_pool(mode):
    b = Builder(size=2)
    y = b.act(b.affine(b.x), SIGMOID)
    after, outcome = fused(b.done(b.graph.add(GlobalPool(mode=mode), (y,)).output, b.conv(y, 3)))
    assert outcome.rewrites == 2 and kinds(after) == {"GlobalPool": 1, "Conv": 1}
    (pool,) = of_kind(after, "GlobalPool")
    assert pool.op.pre_act == SIGMOID and pool.get("pre_scale") and pool.get("pre_shift")


def test_refuses_a_concat_reader():
    b = Builder()
    y = b.act(b.x)
    assert refused(b.done(b.concat(b.x, y))) == "'concat' (Concat) has no prologue"


def test_refuses_a_residual_reader():
    b = Builder()
    y = b.act(b.x)
    graph = b.done(b.add(b.conv(b.x, 12), y))
    epilogue.run(graph)
    assert refused(graph) == "'conv' reads it as its residual"


def test_refuses_an_affine_before_a_pool():
    b = Builder()
    assert refused(b.done(b.pool(b.affine(b.x)))) == "'pool', a pool, takes an activation only"


def test_refuses_a_graph_output():
    b = Builder()
    y = b.act(b.x)
    assert refused(b.done(y, b.conv(y, 5))) == "it is a graph output"


def test_refuses_what_does_not_compose():
    b = Builder()
    y = b.act(b.act(b.x), SIGMOID)
    after, outcome = fused(b.done(b.conv(y, 5, 3)))
    assert outcome.rewrites == 1 and of_kind(after, "Conv")[0].op.pre_act == SIGMOID
    assert [r.reason for r in outcome.refusals] == ["'conv' has a prologue already"]
    b = Builder()
    after, outcome = fused(b.done(b.conv(b.affine(b.act(b.x)), 5, 3)))
    assert outcome.rewrites == 1 and kinds(after) == {"Conv": 1, "Activation": 1}
    assert [r.reason for r in outcome.refusals] == ["'conv' has a prologue already"]
