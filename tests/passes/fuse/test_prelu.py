"""A PRelu with a slope a channel: what takes it, what becomes of its slopes, and what leaves it alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from optgraph.base.errors import ModelError
from optgraph.ir.graph import Graph
from optgraph.ir.values import IDENTITY, PRELU, RELU, Act, Value
from optgraph.ops import Binary, Concat, Conv, ConvTranspose, Gemm, GlobalPool
from optgraph.passes.fuse import bottleneck, commute_average_pool, epilogue, max_pool, merge_siblings, separable
from optgraph.passes.simplify import batchnorm, fold_affine
from tests.support.networks import Builder, kinds, of_kind
from tests.support.onnx_checks import exported, types
from tests.support.run_checks import kernels_agree
from tests.support.simplify_checks import applied, refusal


def refused(graph: Graph) -> str:
    return refusal(epilogue.run, graph)


def transposed(b: Builder) -> str:
    fields = {"kernel": (2, 2), "stride": (2, 2), "pads": (0, 0, 0, 0), "dilation": (1, 1), "extra": (0, 0)}
    return b.graph.add(ConvTranspose(**fields, groups=2), (b.x, b.constant(12, 3, 2, 2), b.constant(6))).output


def dense(b: Builder) -> str:
    return b.graph.add(Gemm(), (b.x, b.constant(6, 12 * 9 * 9, scale=0.03), b.constant(6))).output


MAKERS: dict[str, Callable[[Builder], str]] = {
    "pointwise": lambda b: b.conv(b.x, 6),
    "convolution": lambda b: b.conv(b.x, 6, 3, stride=2),
    "grouped": lambda b: b.conv(b.x, 6, 3, groups=3),
    "depthwise": lambda b: b.depthwise(b.x),
    "average": lambda b: b.pool(b.x),
    "max": lambda b: b.pool(b.x, "max"),
    "transposed": transposed,
    "dense": dense,
}


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("name", MAKERS)
def test_it_becomes_an_activation_of_what_comes_before(name: str, dtype: str) -> None:
    b = Builder()
    y = MAKERS[name](b)
    after, outcome = applied(epilogue.run, b.done(b.prelu(y)))
    (node,) = after.nodes()
    assert outcome.rewrites == 1 and not outcome.refusals
    assert node.op.act == PRELU and node.origin[-1] == f"prelu_{y}"  # type: ignore[attr-defined]
    (slopes,) = [array for array in after.constants.values() if array is after.constants[node.get("slope")]]
    assert slopes.shape == (after.shape(y)[1],)
    plan = kernels_agree(after, dtype=dtype)
    assert all(call.kernel.name not in ("elementwise", "fallback") for call in plan.calls)
    if dtype == "fp32":
        assert types(exported(after)).count("PRelu") == 1


def test_after_an_addition() -> None:
    b = Builder()
    after, outcome = applied(epilogue.run, b.done(b.prelu(b.add(b.act(b.conv(b.x, 12, 3)), b.x))))
    (node,) = after.nodes()
    assert outcome.rewrites == 3 and (node.op.act, node.op.post) == (RELU, PRELU)
    assert node.get("residual") == "x" and node.get("slope")
    kernels_agree(after)
    assert types(exported(after)) == ["Conv", "Relu", "Add", "PRelu"]


def test_before_an_addition() -> None:
    b = Builder()
    after, outcome = applied(epilogue.run, b.done(b.act(b.add(b.prelu(b.conv(b.x, 12, 3)), b.x))))
    (node,) = after.nodes()
    assert outcome.rewrites == 3 and (node.op.act, node.op.post) == (PRELU, RELU)
    kernels_agree(after)


def test_behind_a_concatenation_each_part_gets_its_slopes() -> None:
    b = Builder()
    joined = b.concat(b.conv(b.x, 5), b.pool(b.x), b.add(b.conv(b.x, 12), b.x))
    after, outcome = applied(epilogue.run, b.done(b.conv(b.prelu(joined), 3)))
    assert outcome.rewrites == 2 and kinds(after) == {"Conv": 3, "Pool": 1, "Concat": 1}
    (concat,) = of_kind(after, "Concat")
    parts = [after.producer(value) for value in concat.inputs]
    assert [(part.op.act, part.op.post) for part in parts] == [(PRELU, IDENTITY)] * 2 + [(IDENTITY, PRELU)]
    assert [after.shape(part.get("slope")) for part in parts] == [(5,), (12,), (12,)]
    kernels_agree(after)


def computed(b: Builder) -> str:
    slope = b.graph.add(GlobalPool(mode="average"), (b.conv(b.x, 5),)).output
    return b.graph.add(Binary(fn="prelu"), (b.conv(b.x, 5), slope)).output


def shaped(*shape: int) -> Callable[[Builder], str]:
    return lambda b: b.graph.add(Binary(fn="prelu"), (b.conv(b.x, 9), b.constant(*shape))).output


def along_height(b: Builder) -> str:
    parts = (b.conv(b.x, 5), b.conv(b.x, 5))
    return b.prelu(b.graph.add(Concat(axis=2), parts).output)


NOT_ONE_A_CHANNEL = "its slopes are not constants, one a channel"
REFUSED: dict[str, tuple[Callable[[Builder], str], str]] = {
    "computed": (computed, NOT_ONE_A_CHANNEL),
    "a slope a column": (shaped(9), NOT_ONE_A_CHANNEL),
    "a slope a pixel": (shaped(1, 9, 9), NOT_ONE_A_CHANNEL),
    "a slope a value": (shaped(9, 9, 9), NOT_ONE_A_CHANNEL),
    "affine": (lambda b: b.prelu(b.affine(b.x)), "'affine' (Affine) takes no slope a channel"),
    "sum": (lambda b: b.prelu(b.graph.add(Binary(fn="mul"), (b.x, b.x)).output), "'binary' (Binary) takes no slope"),
    "mean": (
        lambda b: b.prelu(b.graph.add(GlobalPool(mode="average"), (b.x,)).output),
        "'globalpool' (GlobalPool) takes no slope a channel",
    ),
    "along height": (along_height, "what is concatenated has not its channels"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_stays(name: str) -> None:
    make, reason = REFUSED[name]
    b = Builder()
    assert refused(b.done(make(b))).startswith(reason)


def test_it_stays_where_the_raw_value_is_needed() -> None:
    b = Builder()
    y = b.conv(b.x, 5)
    assert refused(b.done(b.prelu(y), y)) == "the output of 'conv' is also needed without the activation"


@pytest.mark.parametrize("added", [False, True])
def test_a_second_one_stays(added: bool) -> None:
    b = Builder()
    y = b.prelu(b.conv(b.x, 12))
    after, outcome = applied(epilogue.run, b.done(b.prelu(b.add(y, b.x) if added else y)))
    reason = "'conv' has slopes already" if added else "'conv' has an activation already"
    assert [r.reason for r in outcome.refusals] == [reason]
    assert [node.op.fn for node in of_kind(after, "Binary")] == ["prelu"]
    kernels_agree(after)


def test_one_with_an_activation_of_its_own_stays() -> None:
    b = Builder()
    y = b.graph.add(Binary(fn="prelu", post=RELU), (b.conv(b.x, 5), b.constant(5, 1, 1))).output
    after, outcome = applied(epilogue.run, b.done(y))
    assert outcome.rewrites == 0 and kinds(after) == {"Conv": 1, "Binary": 1}


def test_what_is_folded_into_weights_does_not_pass_it() -> None:
    b = Builder(channels=6)
    graph = b.done(b.conv(b.affine(b.prelu(b.conv(b.x, 6, 3))), 5))
    after, _ = applied(fold_affine.run, graph, bound=1e-6)
    first, second = of_kind(after, "Conv")
    assert kinds(after) == {"Conv": 2, "Binary": 1}
    assert first.get("w") in graph.constants and second.get("w") not in graph.constants


def test_a_batchnorm_behind_it_stays_behind_it() -> None:
    b = Builder(channels=6)
    graph = b.done(b.affine(b.prelu(b.conv(b.x, 6, 3))))
    for run in (batchnorm.run, fold_affine.run):
        after, _ = applied(run, graph)
        assert [node.op.kind for node in after.nodes()] == ["Conv", "Binary", "Affine"]


# ---- what later passes make of it


def prepared(graph: Graph) -> Graph:
    after, _ = applied(epilogue.run, graph)
    assert not any(getattr(node.op, "fn", "") == "prelu" for node in after.nodes())
    return after


@pytest.mark.parametrize("one_launch", [False, True])
def test_inside_a_separable(one_launch: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optgraph.kernels.separable.pays", lambda *a, **k: one_launch)
    b = Builder()
    y = b.prelu(b.depthwise(b.x, bias=True))
    after, outcome = applied(separable.run, prepared(b.done(b.prelu(b.add(b.conv(y, 12), b.x)))))
    (node,) = after.nodes()
    assert outcome.rewrites == 1 and (node.op.mid, node.op.act, node.op.post) == (PRELU, IDENTITY, PRELU)
    assert node.get("slope") != node.get("mid_slope")
    found = [call.kernel.name for call in kernels_agree(after).calls if call.kernel.name != "elementwise"]
    assert found == (["separable"] if one_launch else ["depthwise", "pointwise"])
    kernels_agree(after, dtype="fp16")
    assert types(exported(after)) == ["Conv", "PRelu", "Conv", "Add", "PRelu"]


@pytest.mark.parametrize("one_launch", [False, True])
def test_inside_a_bottleneck(one_launch: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optgraph.ops.bottleneck.pays", lambda *a, **k: one_launch)
    b = Builder(channels=20)
    y = b.prelu(b.conv(b.prelu(b.conv(b.x, 24, 3)), 20))
    after, outcome = applied(bottleneck.run, prepared(b.done(y)))
    (node,) = after.nodes()
    assert outcome.rewrites == 1 and (node.op.mid, node.op.act) == (PRELU, PRELU)
    assert node.get("slope") != node.get("mid_slope")
    plan = kernels_agree(after)
    found = [call.kernel.name for call in plan.calls if call.kernel.name != "elementwise"]  # which copies the input
    assert found == (["bottleneck"] if one_launch else ["conv2d", "pointwise"])
    kernels_agree(after, dtype="fp16")
    assert types(exported(after)) == ["Conv", "PRelu", "Conv", "PRelu"]


def test_behind_a_max_pool() -> None:
    b = Builder()
    after, outcome = applied(max_pool.run, prepared(b.done(b.prelu(b.conv(b.pool(b.x, "max"), 6)))))
    (node,) = after.nodes()
    assert outcome.rewrites == 1 and node.op.act == PRELU and node.get("slope")
    kernels_agree(after)
    assert types(exported(after))[-2:] == ["Conv", "PRelu"]


def test_it_moves_to_an_average_pool() -> None:
    b = Builder()
    after, outcome = applied(commute_average_pool.run, prepared(b.done(b.prelu(b.conv(b.pool(b.x), 6)))))
    conv, pool = after.nodes()
    assert outcome.rewrites == 1 and conv.op.act == IDENTITY and pool.op.act == PRELU
    assert len(conv.inputs) == 2 and after.shape(pool.get("slope")) == (6,)
    kernels_agree(after)


def test_siblings_merge_without_it() -> None:
    b = Builder()
    y = [b.conv(b.x, 5, act=RELU), *(b.prelu(b.conv(b.x, 6 + i)) for i in range(3)), b.conv(b.x, 9, act=RELU)]
    after, outcome = applied(merge_siblings.run, prepared(b.done(*y)))
    assert outcome.rewrites == 1 and kinds(after) == {"MergedPointwise": 1, "Conv": 3}
    assert {r.reason for r in outcome.refusals} == {"it has a slope a channel, and a segment has none"}
    kernels_agree(after)


# ---- operators that are not as they should be


@pytest.mark.parametrize(
    ("act", "shape", "post"),
    [(PRELU, None, IDENTITY), (RELU, (5,), IDENTITY), (PRELU, (4,), IDENTITY), (PRELU, (5,), PRELU)],
)
def test_slopes_must_fit(act: Act, shape: tuple[int, ...] | None, post: Act) -> None:
    x, w = Value((1, 12, 9, 9)), Value((5, 12, 1, 1))
    slope = Value(shape) if shape else None
    with pytest.raises(ModelError, match="slope"):
        Conv(kernel=(1, 1), act=act, post=post).infer([x, w, None, None, None, None, slope])
