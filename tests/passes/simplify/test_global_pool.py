import pytest

from optgraph.ir.values import RELU
from optgraph.ops import GlobalPool, Pool, Reduce, Reshape
from optgraph.passes.simplify import global_pool
from tests.support.networks import Builder
from tests.support.simplify_checks import applied, refusal


def _one(op):
    b = Builder()
    return b.done(b.graph.add(op, [b.x], origin=["pool"]).output)


@pytest.mark.parametrize("reduction, mode", [("mean", "average"), ("max", "max")])
def test_reduction(reduction, mode):
    after, outcome = applied(global_pool.run, _one(Reduce(mode=reduction, axes=(2, 3), keepdims=True)))
    assert outcome.rewrites == 1 and [n.op for n in after.nodes()] == [GlobalPool(mode=mode)]
    after, outcome = applied(global_pool.run, _one(Reduce(mode=reduction, axes=(2, 3), keepdims=False)))
    assert [n.op for n in after.nodes()] == [GlobalPool(mode=mode), Reshape(shape=("N", 12))]
    assert all(node.origin == ("pool",) for node in after.nodes())


@pytest.mark.parametrize("mode", ["average", "max"])
def test_window_of_the_whole_image(mode):
    after, outcome = applied(global_pool.run, _one(Pool(mode=mode, kernel=(9, 9), stride=(2, 3))))
    assert outcome.rewrites == 1 and [n.op for n in after.nodes()] == [GlobalPool(mode=mode)]


OTHERS = [
    Reduce(mode="sum", axes=(2, 3), keepdims=True),
    Reduce(mode="mean", axes=(1, 2), keepdims=True),
    Reduce(mode="mean", axes=(3,), keepdims=True),
    Pool(mode="average", kernel=(8, 9)),
]


@pytest.mark.parametrize("op", OTHERS)
def test_others_stay(op):
    after, outcome = applied(global_pool.run, _one(op))
    assert outcome.rewrites == 0 and [n.op for n in after.nodes()] == [op]


def test_padded_window():
    op = Pool(mode="average", kernel=(9, 9), pads=(1, 1, 1, 1), stride=(9, 9), count_include_pad=True)
    assert "padded" in refusal(global_pool.run, _one(op))


def test_epilogue():
    assert "epilogue" in refusal(global_pool.run, _one(Pool(mode="average", kernel=(9, 9), act=RELU)))
