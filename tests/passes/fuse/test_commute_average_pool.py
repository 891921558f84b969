from dataclasses import replace

import pytest

from optgraph.ir.graph import Graph
from optgraph.ir.values import IDENTITY, RELU
from optgraph.passes.fuse import commute_average_pool, epilogue
from tests.support.networks import Builder, difference, inception_a, of_kind


def commuted(graph: Graph):
    after = graph.copy()
    outcome = commute_average_pool.run(after)
    assert difference(graph, after) < 1e-12
    return after, outcome


def refused(graph: Graph) -> str:
    after, outcome = commuted(graph)
    assert outcome.rewrites == 0 and len(after) == len(graph)
    (refusal,) = outcome.refusals
    return refusal.reason


@pytest.mark.parametrize("count_include_pad", [False, True])
def test_pool_moves_behind_the_convolution(count_include_pad):
    b = Builder(channels=12)
    pooled = b.pool(b.x, count_include_pad=count_include_pad)
    after, outcome = commuted(b.done(b.conv(pooled, 5, act=RELU)))
    conv, pool = after.nodes()
    assert outcome.rewrites == 1
    assert conv.op.kind == "Conv" and conv.op.act == IDENTITY and not conv.get("b") and conv.inputs[0] == "x"
    assert pool.op.kind == "Pool" and pool.op.act == RELU and pool.get("b") and after.shape(pool.output)[1] == 5
    assert pool.op.count_include_pad == count_include_pad
    assert len(pool.origin) == 2 and set(conv.origin) < set(pool.origin)


def test_residual_and_second_activation_move_too():
    b = Builder(channels=12)
    r = b.conv(b.x, 5, 3)
    graph = b.done(b.act(b.add(r, b.act(b.conv(b.pool(b.x), 5)))), r)
    epilogue.run(graph)
    after, outcome = commuted(graph)
    (pool,) = of_kind(after, "Pool")
    assert outcome.rewrites == 1 and pool.get("residual") == r and pool.op.act == RELU and pool.op.post == RELU


@pytest.mark.parametrize("count_include_pad", [False, True])
def test_inception_block(count_include_pad):
    graph = inception_a(count_include_pad)
    epilogue.run(graph)
    after, outcome = commuted(graph)
    assert outcome.rewrites == 1
    assert [slot for _, slot in after.users("x")] == [0] * 4  # four siblings now


def test_as_many_channels_pay_with_a_sibling_only():
    b = Builder(channels=6)
    assert refused(b.done(b.conv(b.pool(b.x), 6))).startswith("nothing to gain")
    b = Builder(channels=6)
    _, outcome = commuted(b.done(b.conv(b.pool(b.x), 6), b.conv(b.x, 9)))
    assert outcome.rewrites == 1


def test_refuses_to_widen_the_pool():
    b = Builder(channels=6)
    assert refused(b.done(b.conv(b.pool(b.x), 7), b.conv(b.x, 9))) == "the pool would move 7 channels instead of 6"


def test_refuses_where_the_pool_is_needed_elsewhere():
    b = Builder()
    y = b.pool(b.x)
    assert refused(b.done(b.conv(y, 5), y)) == "the pool's output is also needed elsewhere"


def test_refuses_strides():
    b = Builder()
    assert refused(b.done(b.conv(b.pool(b.x, stride=2), 5))).startswith("a stride above 1")
    b = Builder()
    assert refused(b.done(b.conv(b.pool(b.x), 5, stride=2))).startswith("a stride above 1")


def test_refuses_a_pool_with_an_epilogue():
    b = Builder()
    graph = b.done(b.conv(b.act(b.pool(b.x)), 5))
    epilogue.run(graph)
    assert refused(graph) == "the pool has a prologue or epilogue of its own"


def test_refuses_a_convolution_with_a_prologue():
    b = Builder()
    graph = b.done(b.conv(b.pool(b.x), 5))
    (conv,) = of_kind(graph, "Conv")
    graph.update(conv, replace(conv.op, pre_act=RELU))
    assert refused(graph) == "the convolution has a prologue"


def test_max_pool_and_wider_kernels_do_not_match():
    b = Builder()
    _, outcome = commuted(b.done(b.conv(b.pool(b.x, "max"), 5), b.conv(b.pool(b.x), 5, 3)))
    assert outcome.rewrites == 0 and not outcome.refusals
