import math

import pytest

from optgraph.ir.graph import Graph
from optgraph.ir.quant import Quant
from optgraph.ir.values import RELU, Act
from optgraph.ops import Conv, FakeQuantize, Pad, Pool
from optgraph.passes.simplify import fold_pad
from tests.support.networks import Builder, kinds, of_kind
from tests.support.simplify_checks import applied, refusal

SPATIAL = (0, 0, 1, 2, 0, 0, 0, 1)  # top 1, left 2, bottom 0, right 1


def _pad(b: Builder, x: str, pads=SPATIAL, value: float = 0.0, mode: str = "constant") -> str:
    return b.graph.add(Pad(pads=pads, value=value, mode=mode), [x], origin=["pad"]).output


def _pool(b: Builder, x: str, mode: str, **fields) -> str:
    fields = {"kernel": (3, 3), "stride": (2, 2)} | fields
    return b.graph.add(Pool(mode=mode, **fields), [x]).output


def _folded(graph: Graph) -> Graph:
    after, outcome = applied(fold_pad.run, graph)
    assert outcome.rewrites == 1 and "Pad" not in kinds(after)
    return after


@pytest.mark.parametrize("groups", [1, 12])
def test_convolution(groups):
    b = Builder()
    after = _folded(b.done(b.conv(_pad(b, b.x), 12, 3, 2, groups=groups)))
    (conv,) = after.nodes()
    assert conv.op.pads == (2, 3, 1, 2) and "pad" in conv.origin


def test_average_pool_counts_the_padding():
    b = Builder()
    (pool,) = _folded(b.done(_pool(b, _pad(b, b.x), "average"))).nodes()
    assert pool.op.pads == (1, 2, 0, 1) and pool.op.count_include_pad


def test_average_pool_with_padding_of_its_own():
    b = Builder()
    own = {"kernel": (5, 5), "pads": (1, 1, 1, 1)}
    (pool,) = _folded(b.done(_pool(b, _pad(b, b.x), "average", **own, count_include_pad=True))).nodes()
    assert pool.op.pads == (2, 3, 1, 2)
    b = Builder()
    assert "does not count" in refusal(fold_pad.run, b.done(_pool(b, _pad(b, b.x), "average", **own)))


@pytest.mark.parametrize("act, value", [(RELU, 0.0), (RELU, -1.0), (Act("clip", -0.5, 6.0), -0.5), (Act("tanh"), -1.0)])
def test_max_pool_whose_padding_cannot_win(act, value):
    b = Builder()
    (_, pool) = _folded(b.done(_pool(b, _pad(b, b.act(b.x, act), value=value), "max"))).nodes()
    assert pool.op.pads == (1, 2, 0, 1)


def test_a_clip_of_crossed_bounds_is_as_low_as_the_upper_one():
    b = Builder()
    crossed = Act("clip", 1.0, -1.0)  # -1 everywhere
    clipped = b.act(b.x, crossed)
    assert fold_pad.lower_bound(b.done(clipped), clipped) == -1.0


@pytest.mark.parametrize("own", [(0, 0, 0, 0), (1, 0, 1, 1)])
def test_max_pool_of_the_edge_repeated(own):
    b = Builder()
    (pool,) = _folded(b.done(_pool(b, _pad(b, b.x, mode="edge"), "max", pads=own))).nodes()
    assert pool.op.pads == tuple(p + q for p, q in zip((1, 2, 0, 1), own, strict=True))


def test_the_edge_repeated_stays_before_anything_else():
    b = Builder()
    assert "repeats the edge" in refusal(fold_pad.run, b.done(b.conv(_pad(b, b.x, mode="edge"), 12, 3, 2)))
    b = Builder()
    assert "repeats the edge" in refusal(fold_pad.run, b.done(_pool(b, _pad(b, b.x, mode="edge"), "average")))
    b = Builder()
    dilated = _pool(b, _pad(b, b.x, mode="edge"), "max", dilation=(2, 1))
    assert "dilated" in refusal(fold_pad.run, b.done(dilated))


def test_max_pool_of_minus_infinity():
    b = Builder()
    after = _folded(b.done(_pool(b, _pad(b, b.x, value=-math.inf), "max", pads=(0, 0, 1, 1))))
    assert of_kind(after, "Pool")[0].op.pads == (1, 2, 1, 2)


@pytest.mark.parametrize("act, value", [(None, 0.0), (Act("silu"), 0.0), (RELU, 0.1), (Act("clip", -0.5, 6.0), 0.0)])
def test_max_pool_whose_padding_may_win(act, value):
    """Keras' ResNet v2 pads with zeros what no Relu made positive."""
    b = Builder()
    x = b.act(b.x, act) if act else b.conv(b.x, 12)
    assert "may be the maximum" in refusal(fold_pad.run, b.done(_pool(b, _pad(b, x, value=value), "max")))


def test_window_of_padding_only():
    b = Builder()
    wide = (0, 0, 3, 0, 0, 0, 0, 0)
    graph = b.done(_pool(b, _pad(b, b.act(b.x), wide), "max", stride=(1, 1)))
    assert "altogether" in refusal(fold_pad.run, graph)
    b = Builder()
    graph = b.done(_pool(b, _pad(b, b.act(b.x)), "max", dilation=(2, 2)))
    assert "dilated" in refusal(fold_pad.run, graph)


@pytest.mark.parametrize(
    "pads, value, reason",
    [
        ((0, 1, 1, 1, 0, 0, 1, 1), 0.0, "channels"),
        ((0, 0, -1, 1, 0, 0, 1, 1), 0.0, "crops"),
        (SPATIAL, 1.0, "pads with 1.0"),
    ],
)
def test_padding_that_is_something_else(pads, value, reason):
    b = Builder()
    assert reason in refusal(fold_pad.run, b.done(b.conv(_pad(b, b.x, pads, value), 12, 3)))


def test_prologue():
    b = Builder()
    x = b.conv(_pad(b, b.x), 12, 3, pre_act=Act("sigmoid"))
    assert "prologue" in refusal(fold_pad.run, b.done(x))


def test_padding_with_several_readers():
    b = Builder()
    padded = _pad(b, b.act(b.x))
    graph = b.done(b.conv(padded, 4, 3), _pool(b, padded, "max"), b.act(padded, Act("tanh")))
    after, outcome = applied(fold_pad.run, graph)
    assert outcome.rewrites == 2 and kinds(after)["Pad"] == 1
    graph = b.done(b.conv(padded, 4, 3), _pool(b, padded, "max"))
    graph.prune()
    after, outcome = applied(fold_pad.run, graph)
    assert outcome.rewrites == 2 and "Pad" not in kinds(after)


def test_slot_of_the_weight_is_not_padding():
    b = Builder()
    padded = _pad(b, b.constant(4, 12, 2, 2), (0, 0, 1, 0, 0, 0, 0, 1))
    after, outcome = applied(fold_pad.run, b.done(b.graph.add(Conv(kernel=(3, 3)), [b.x, padded]).output))
    assert outcome.rewrites == 0 and kinds(after) == {"Pad": 1, "Conv": 1}


# ---- with a rounding to a grid in between


def _rounded(b: Builder, x: str) -> str:
    return b.graph.add(FakeQuantize(quant=Quant(0.04, -3)), [x], origin=["round"]).output


@pytest.mark.parametrize("kind", ["convolution", "average"])
def test_zeros_stay_zeros_on_a_grid(kind):
    b = Builder()
    x = _rounded(b, _pad(b, b.x))
    after = _folded(b.done(b.conv(x, 6, 3) if kind == "convolution" else _pool(b, x, "average")))
    first, second = after.nodes()
    assert isinstance(first.op, FakeQuantize) and first.inputs == ("x",)
    assert any(second.op.pads) and "pad" in second.origin and first.origin == ("round",)


def test_a_rounding_is_in_the_way():
    b = Builder()
    x = _rounded(b, _pad(b, b.x))
    assert "needed elsewhere" in refusal(fold_pad.run, b.done(b.conv(x, 6, 3), b.conv(x, 4)))
    b = Builder()
    x = _rounded(b, _pad(b, b.act(b.x), value=0.0))
    assert "rounded to a grid" in refusal(fold_pad.run, b.done(_pool(b, x, "max")))
