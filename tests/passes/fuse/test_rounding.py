"""Roundings to a grid become part of operators; passes that would lose one leave it where it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from optgraph.ir.graph import Graph
from optgraph.ir.quant import Quant
from optgraph.ir.values import RELU, Act
from optgraph.onnx.sessions import session
from optgraph.onnx.write import to_onnx
from optgraph.ops import Binary, Conv, FakeQuantize, Gemm, GlobalPool, Pad, Pool, Reshape, Softmax
from optgraph.ops.rounding import Rounding
from optgraph.passes import pipeline
from optgraph.passes.fuse import (
    bottleneck,
    commute_average_pool,
    epilogue,
    max_pool,
    merge_siblings,
    prologue,
    rounding,
    separable,
)
from optgraph.run import reference
from tests.support.networks import Builder, kinds, of_kind
from tests.support.simplify_checks import applied, refusal

ONE, TWO, THREE = Quant(0.04, -3), Quant(0.05), Quant(0.03, 7)


def rounded(b: Builder, x: str, quant: Quant = ONE) -> str:
    return b.graph.add(FakeQuantize(quant=quant), [x], origin=[f"round_{x}"]).output


def last(b: Builder, value: str, *quants: Quant) -> str:
    """The operator that computes `value` rounds to these."""
    node = b.graph.producer(value)
    assert node is not None and isinstance(node.op, Rounding)
    return b.graph.update(node, replace(node.op, quants=quants)).output


def _gemm(b: Builder) -> str:
    x = b.graph.add(Reshape(shape=("N", -1)), [b.pool(b.x, stride=3)]).output
    return b.graph.add(Gemm(act=RELU), [x, b.constant(5, int(b.graph.shape(x)[1]), scale=0.1)]).output


TAKERS: dict[str, Callable[[Builder], str]] = {
    "convolution": lambda b: b.conv(b.x, 6, 3, act=RELU),
    "average pool": lambda b: b.pool(b.x),
    "global pool": lambda b: b.graph.add(GlobalPool(mode="average"), [b.x]).output,
    "sum": lambda b: b.graph.add(Binary(fn="add", post=RELU), [b.x, b.conv(b.x, 12)]).output,
    "activation": lambda b: b.act(b.x, Act("silu")),
    "affine": lambda b: b.affine(b.x),
    "dense": _gemm,
}


@pytest.mark.parametrize("taker", TAKERS)
def test_fires(taker: str) -> None:
    b = Builder()
    before = b.done(rounded(b, rounded(b, TAKERS[taker](b), ONE), TWO))
    graph, outcome = applied(rounding.run, before)
    node = graph.producer(graph.outputs["y0"])
    assert outcome.rewrites == 2 and node is not None and isinstance(node.op, Rounding)
    assert node.op.quants == (ONE, TWO) and not of_kind(graph, "FakeQuantize")
    x = np.random.default_rng(0).normal(size=(2, 12, 9, 9)).astype(np.float32)
    want = reference.run(before, {"x": x})["y0"].numpy()
    got = session(to_onnx(graph).SerializeToString(), optimize=False).run(None, {"x": x})[0]
    steps = np.abs(got - want) / TWO.scale
    assert steps.max() < 1.01 and (steps > 0.1).mean() < 0.01


def test_a_concatenation_is_rounded_part_by_part() -> None:
    b = Builder()
    shared = b.conv(b.x, 4)
    parts = [rounded(b, b.conv(b.x, 5, 3), TWO), rounded(b, b.conv(b.x, 3)), b.pool(b.x, "max"), shared]
    graph, outcome = applied(rounding.run, b.done(rounded(b, b.concat(*parts)), b.conv(shared, 2)))
    assert outcome.rewrites == 3
    concat = graph.producer(graph.outputs["y0"])
    assert concat is not None and concat.op.kind == "Concat"
    ops = [graph.producer(value).op for value in concat.inputs]
    assert [getattr(op, "quants", None) for op in ops] == [(TWO, ONE), (ONE,), (ONE,), None]
    assert isinstance(ops[3], FakeQuantize), "the one that is read by others"


def _refused(run: Callable[[Graph], Any], make: Callable[[Builder], Any]) -> str:
    b = Builder()
    made = make(b)
    return refusal(run, b.done(*made if isinstance(made, tuple) else (made,)))


def test_a_value_that_is_needed_as_it_is() -> None:
    def twice(b: Builder) -> tuple[str, str]:
        x = b.conv(b.x, 6)
        return rounded(b, x), b.conv(x, 3)

    def concat(b: Builder) -> tuple[str, str]:
        x = b.concat(b.conv(b.x, 6), b.conv(b.x, 3))
        return rounded(b, x), b.conv(x, 3)

    assert "needed as it is" in _refused(rounding.run, twice)
    assert "needed as it is" in _refused(rounding.run, concat)
    assert "needed as it is" in _refused(rounding.run, lambda b: ((x := b.conv(b.x, 6)), rounded(b, x)))


def test_two_grids_at_most() -> None:
    assert "2 grids already" in _refused(rounding.run, lambda b: rounded(b, last(b, b.conv(b.x, 6), ONE, TWO), THREE))


def test_a_concatenation_that_nothing_rounds_for() -> None:
    def soft(b: Builder) -> str:
        parts = [b.graph.add(Softmax(axis=1, log=False), [b.x]).output for _ in range(2)]
        return rounded(b, b.concat(*parts))

    assert "nothing that is concatenated" in _refused(rounding.run, soft)
    assert "an input or a constant" in _refused(rounding.run, lambda b: rounded(b, b.concat(b.x, b.conv(b.x, 6))))


# ---- passes that come after


def test_an_activation_or_a_sum_stays_behind_a_rounding() -> None:
    assert "rounded to a grid before" in _refused(epilogue.run, lambda b: b.act(last(b, b.conv(b.x, 6), ONE)))
    assert "rounded to a grid before" in _refused(epilogue.run, lambda b: b.add(last(b, b.conv(b.x, 12), ONE), b.x))


def test_a_residual_takes_the_rounding_of_the_sum() -> None:
    b = Builder()
    y = last(b, b.add(b.conv(b.x, 12), b.x), ONE)
    graph, _ = applied(epilogue.run, b.done(y))
    (conv,) = graph.nodes()
    assert isinstance(conv.op, Conv) and conv.op.quants == (ONE,) and conv.get("residual") == b.x


def _sum(b: Builder, *quants: Quant, **fields: Any) -> str:
    total = b.graph.add(Binary(fn="add", post=RELU), [last(b, b.conv(b.x, 12, 3, **fields), *quants), b.x])
    return last(b, total.output, TWO)


def test_a_residual_onto_rounded_numbers() -> None:
    b = Builder()
    before = b.done(_sum(b, ONE, act=Act("tanh")))
    graph, outcome = applied(epilogue.run_rounded, before)
    (conv,) = graph.nodes()
    assert outcome.rewrites == 1 and isinstance(conv.op, Conv) and conv.get("residual") == b.x
    assert (conv.op.before_residual, conv.op.post, conv.op.quants) == ((ONE,), RELU, (TWO,))
    x = np.random.default_rng(0).normal(size=(2, 12, 9, 9)).astype(np.float32)
    got = session(to_onnx(graph).SerializeToString(), optimize=False).run(None, {"x": x})[0]
    steps = np.abs(got - reference.run(before, {"x": x})["y0"].numpy()) / TWO.scale
    assert steps.max() < 2.01 and (steps > 0.1).mean() < 0.01


def test_a_residual_stays_behind_two_roundings_and_behind_what_others_read() -> None:
    assert "rounded to a grid before" in _refused(epilogue.run_rounded, lambda b: _sum(b, ONE, THREE))

    def twice(b: Builder) -> tuple[str, str]:
        x = last(b, b.conv(b.x, 12, 3), ONE)
        return b.add(x, b.x), b.conv(x, 2)

    assert "needed without the addition" in _refused(epilogue.run_rounded, twice)
    b = Builder()
    graph, outcome = applied(epilogue.run_rounded, b.done(b.add(b.conv(b.x, 12), b.x)))
    assert outcome.rewrites == 0 and len(graph) == 2, "it is for those that round"


def test_what_is_rounded_before_a_residual_stays_so_when_operators_merge() -> None:
    for first in (lambda b: b.depthwise(b.x), lambda b: b.conv(b.x, 32, 3), lambda b: b.pool(b.x, "max")):
        b = Builder(channels=16)
        total = b.add(last(b, b.conv(first(b), 16), ONE), b.x)
        graph, _ = applied(
            lambda graph: pipeline.apply(graph, pipeline.FUSE) and rounding.Outcome(), b.done(last(b, total, TWO))
        )
        node = graph.producer(graph.outputs["y0"])
        assert node is not None and node.get("residual")
        assert getattr(node.op, "before_residual", None) == (ONE,), node.op


def test_a_pool_that_rounds_stays_before_the_convolution() -> None:
    reason = _refused(commute_average_pool.run, lambda b: b.conv(last(b, b.pool(b.x), ONE), 4))
    assert reason == "the pool has a prologue or epilogue of its own"


def test_a_pool_that_moves_takes_the_rounding_of_the_convolution() -> None:
    b = Builder()
    graph, _ = applied(commute_average_pool.run, b.done(last(b, b.conv(b.pool(b.x), 4), ONE)))
    conv, pool = graph.nodes()
    assert isinstance(conv.op, Conv) and isinstance(pool.op, Pool)
    assert (conv.op.quants, pool.op.quants) == ((), (ONE,))


FUSED: dict[str, tuple[Callable[[Graph], Any], Callable[[Builder], str], str]] = {
    "Separable": (separable.run, lambda b: b.depthwise(b.x), "rounded to a grid"),
    "Bottleneck": (bottleneck.run, lambda b: b.conv(b.x, 32, 3), "rounded to a grid"),
    "PooledPointwise": (max_pool.run, lambda b: b.pool(b.x, "max"), "an epilogue of its own"),
}


@pytest.mark.parametrize("kind", FUSED)
def test_two_operators_in_one_round_at_the_end_only(kind: str) -> None:
    run, first, reason = FUSED[kind]
    b = Builder(channels=16)
    graph, _ = applied(run, b.done(last(b, b.conv(first(b), 6), ONE, TWO)))
    (node,) = graph.nodes()
    assert node.op.kind == kind and isinstance(node.op, Rounding) and node.op.quants == (ONE, TWO)
    b = Builder(channels=16)
    assert reason in refusal(run, b.done(b.conv(last(b, first(b), ONE), 6)))


def test_what_is_rounded_is_no_prologue() -> None:
    for make in (lambda b: b.act(b.x, Act("silu")), lambda b: b.affine(b.x)):
        assert "rounded to a grid" in _refused(prologue.run, lambda b, make=make: b.conv(last(b, make(b), ONE), 6, 3))


def test_siblings_round_each_to_its_own() -> None:
    b = Builder()
    siblings = [last(b, b.conv(b.x, 4), ONE), last(b, b.conv(b.x, 5), TWO, ONE), b.conv(b.x, 6), b.conv(b.x, 3)]
    graph, outcome = applied(merge_siblings.run, b.done(*siblings))
    assert outcome.rewrites == 2 and kinds(graph) == {"MergedPointwise": 2}, "those on grids, and those on none"
    quants = {tuple(segment.quants for segment in node.op.segments) for node in graph.nodes()}
    assert quants == {((TWO, ONE), (ONE,)), ((), ())}
    again = session(to_onnx(graph).SerializeToString(), optimize=False)
    x = np.random.default_rng(0).normal(size=(2, 12, 9, 9)).astype(np.float32)
    for name, want in reference.run(graph, {"x": x}).items():
        np.testing.assert_allclose(again.run([name], {"x": x})[0], want.numpy(), atol=0.06)


def test_a_network_after_all_passes() -> None:
    """Between every two operators lies a grid."""
    b = Builder(channels=16)
    x = rounded(b, b.x)
    x = rounded(b, b.act(b.conv(b.graph.add(Pad(pads=(0, 0, 1, 1, 0, 0, 1, 1)), [x]).output, 16, 3)))
    y = rounded(b, b.act(rounded(b, b.conv(rounded(b, b.depthwise(x)), 16), TWO)), TWO)
    before = b.done(rounded(b, b.act(b.add(x, y)), THREE))
    graph, _ = applied(lambda graph: pipeline.apply(graph, pipeline.FUSE) and rounding.Outcome(), before)
    assert kinds(graph)["FakeQuantize"] == 1 and not kinds(graph)["Activation"]
