from optgraph.ir.graph import Graph
from optgraph.ir.values import RELU, Act
from optgraph.ops import Conv, Pool, PooledPointwise
from optgraph.passes.fuse import commute_average_pool, epilogue, max_pool, merge_siblings
from tests.support.networks import Builder, difference, kinds, of_kind

SIGMOID = Act("sigmoid")


def fused(graph: Graph):
    after = graph.copy()
    outcome = max_pool.run(after)
    assert difference(graph, after) < 1e-12
    return after, outcome


def refused(graph: Graph) -> str:
    after, outcome = fused(graph)
    assert outcome.rewrites == 0 and not of_kind(after, "PooledPointwise")
    (refusal,) = outcome.refusals
    return refusal.reason


def test_fuses_with_everything_around_it():
    b = Builder(channels=6)
    x, r = b.conv(b.x, 7), b.conv(b.x, 5, 3, stride=2)
    op = Pool(kernel=(3, 2), stride=(2, 2), pads=(1, 0, 1, 1), mode="max", pre_act=SIGMOID)
    y = b.graph.add(op, (x,), origin=("pool",)).output
    graph = b.done(b.act(b.add(b.act(b.conv(y, 5)), r), SIGMOID), r)
    epilogue.run(graph)
    after, outcome = fused(graph)
    assert outcome.rewrites == 1 and kinds(after) == {"Conv": 2, "PooledPointwise": 1}
    (node,) = of_kind(after, "PooledPointwise")
    window = {"kernel": (3, 2), "stride": (2, 2), "pads": (1, 0, 1, 1)}
    assert node.op == PooledPointwise(**window, pre_act=SIGMOID, act=RELU, post=SIGMOID)
    assert all(node.inputs[:4]) and node.get("residual") == r
    assert node.origin[-1] == "pool" and len(node.origin) == 5


def test_keeps_dilation():
    b = Builder()
    y = b.graph.add(Pool(kernel=(3, 3), dilation=(2, 1), mode="max"), (b.x,)).output
    after, outcome = fused(b.done(b.conv(y, 5, bias=False)))
    assert outcome.rewrites == 1 and of_kind(after, "PooledPointwise")[0].op.dilation == (2, 1)


def test_fuses_one_after_another():
    b = Builder()
    y = b.conv(b.pool(b.conv(b.pool(b.x, "max", stride=2), 256), "max"), 7)
    after, outcome = fused(b.done(y))
    assert outcome.rewrites == 2 and kinds(after) == {"PooledPointwise": 2}


def test_siblings_are_merged_instead():
    b = Builder()
    y = b.pool(b.x, "max", stride=2)
    graph = b.done(b.conv(y, 5), b.conv(b.pool(y), 4), b.conv(b.conv(y, 3), 6, 3))
    commute_average_pool.run(graph)
    merge_siblings.run(graph)
    after, outcome = fused(graph)
    assert outcome.rewrites == 0 and not outcome.refusals
    assert kinds(after) == {"Pool": 2, "MergedPointwise": 1, "Conv": 1}


def test_refuses_a_value_needed_elsewhere():
    b = Builder()
    y = b.pool(b.x, "max")
    assert refused(b.done(b.conv(y, 5), b.conv(y, 5, 3))) == "the pool's output is also needed elsewhere"
    b = Builder()
    y = b.pool(b.x, "max")
    assert refused(b.done(b.conv(y, 5), y)) == "the pool's output is also needed elsewhere"


def test_refuses_an_epilogue_of_the_pool():
    b = Builder()
    graph = b.done(b.conv(b.act(b.add(b.pool(b.conv(b.x, 6), "max"), b.conv(b.x, 6, 3))), 5))
    epilogue.run(graph)
    assert refused(graph) == "the pool has an epilogue of its own"


def test_refuses_a_stride_of_the_convolution():
    b = Builder()
    assert refused(b.done(b.conv(b.pool(b.x, "max"), 5, stride=2))) == "the convolution has a stride"


def test_refuses_a_prologue_of_the_convolution():
    b = Builder()
    assert refused(b.done(b.conv(b.pool(b.x, "max"), 5, pre_act=RELU))) == "the convolution has a prologue"
    b = Builder()
    graph = b.done(b.conv(b.pool(b.x, "max"), 5))
    (conv,) = of_kind(graph, "Conv")
    graph.update(conv, conv.op, conv.inputs_with(pre_scale=b.constant(12)))
    assert refused(graph) == "the convolution has a prologue"


def test_refuses_computed_weights():
    b = Builder(channels=12)
    bias = b.act(b.constant(5))
    y = b.graph.add(Conv(kernel=(1, 1)), (b.pool(b.x, "max"), b.constant(5, 12, 1, 1), bias)).output
    assert refused(b.done(y)) == "its weights are computed, not constant"


def test_refuses_beside_other_branches():
    b = Builder()
    graph = b.done(b.conv(b.pool(b.x, "max"), 5), b.conv(b.x, 5, 3))
    assert refused(graph) == "it runs beside other branches on the same image"


def test_refuses_more_columns_than_a_block():
    b = Builder()
    reason = refused(b.done(b.conv(b.pool(b.x, "max"), 257)))
    assert reason.startswith("257 output channels: beyond 256")


def test_average_pools_and_wider_kernels_do_not_match():
    b = Builder()
    y = b.conv(b.pool(b.x), 5)
    padded = Conv(kernel=(1, 1), pads=(1, 1, 1, 1))
    y = b.graph.add(padded, (b.pool(y, "max"), b.constant(4, 5, 1, 1))).output
    _, outcome = fused(b.done(b.conv(b.pool(y, "max"), 5, 3)))
    assert outcome.rewrites == 0 and not outcome.refusals
