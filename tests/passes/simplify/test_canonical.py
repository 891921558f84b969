"""Canonical forms together: however a small network is spelled, it comes out the same."""

import cProfile
import pstats

from optgraph.ir.graph import Graph
from optgraph.ops import BatchNorm, Conv, Gemm, GlobalPool, MatMul, Pad, Reduce, Reshape
from optgraph.passes.rewrite import Outcome
from optgraph.passes.simplify import batchnorm, canonical, common_subexpressions, fold_affine, layout, remove_noops
from tests.support.networks import Builder, kinds
from tests.support.simplify_checks import TO_NCHW, TO_NHWC, applied, binary, constant, transpose

PASSES = (remove_noops, common_subexpressions, layout, canonical, batchnorm, fold_affine)


def simplify(graph: Graph) -> Outcome:
    outcome = Outcome()
    for step in PASSES:
        outcome += step.run(graph)
        graph.prune()
        graph.verify()
    return outcome


def _torch_spelling() -> Graph:
    b = Builder()
    y = b.conv(b.x, 8, 3, bias=False)
    y = b.act(b.graph.add(BatchNorm(), [y, *(b.constant(8, mean=2.0, scale=0.2) for _ in range(4))]).output)
    y = b.add(y, binary(b, "mul", b.conv(y, 8), constant(b, 0.3)))
    y = b.graph.add(Reshape(shape=("N", -1)), [b.graph.add(GlobalPool(mode="average"), [y]).output]).output
    return b.done(b.graph.add(Gemm(), [y, b.constant(5, 8), b.constant(5)]).output)


def _keras_spelling() -> Graph:
    b = Builder()
    y = b.graph.add(Pad(pads=(0, 1, 1, 0, 0, 1, 1, 0)), [transpose(b, b.x, TO_NHWC)]).output
    w = b.constant(8, 12, 3, 3, scale=0.1)
    y = transpose(b, b.graph.add(Conv(kernel=(3, 3)), [transpose(b, y, TO_NCHW), w]).output, TO_NHWC)
    y = binary(b, "sub", y, b.constant(1, 1, 1, 8))
    y = b.act(binary(b, "add", binary(b, "mul", y, b.constant(1, 1, 1, 8)), b.constant(1, 1, 1, 8)))
    z = transpose(b, b.conv(transpose(b, y, TO_NCHW), 8), TO_NHWC)
    y = b.add(y, binary(b, "mul", binary(b, "add", z, b.constant(8)), constant(b, 0.3)))
    y = b.graph.add(Reduce(mode="mean", axes=(1, 2), keepdims=False), [y]).output
    return b.done(binary(b, "add", b.graph.add(MatMul(), [y, b.constant(8, 5)]).output, b.constant(5)))


def test_spellings_agree():
    expected = {"Conv": 2, "Activation": 1, "Binary": 1, "GlobalPool": 1, "Reshape": 1, "Gemm": 1}
    for graph in (_torch_spelling(), _keras_spelling()):
        after, _ = applied(simplify, graph, 1e-6)
        assert kinds(after) == expected


def test_a_second_time_changes_nothing():
    for graph in (_torch_spelling(), _keras_spelling()):
        simplify(graph)
        assert simplify(graph).rewrites == 0


def _in_a_row(blocks: int) -> Graph:
    b = Builder(channels=4, size=4)
    y = transpose(b, b.x, TO_NHWC)
    for _ in range(blocks):
        z = b.graph.add(Pad(pads=(0, 1, 1, 0, 0, 1, 1, 0)), [y]).output
        w = b.constant(4, 4, 3, 3, scale=0.1)
        z = transpose(b, b.graph.add(Conv(kernel=(3, 3)), [transpose(b, z, TO_NCHW), w]).output, TO_NHWC)
        z = b.act(binary(b, "mul", binary(b, "sub", z, b.constant(1, 1, 1, 4)), b.constant(1, 1, 1, 4)))
        y = b.add(y, binary(b, "mul", z, constant(b, 1)))
    return b.done(y)


def test_work_grows_with_the_size():
    """Counted in calls, which no other process disturbs."""
    work = []
    for blocks in (20, 200):
        graph = _in_a_row(blocks)
        profile = cProfile.Profile()
        profile.runcall(simplify, graph)
        assert kinds(graph) == {"Conv": blocks, "Activation": blocks, "Binary": blocks, "Transpose": 1}
        work.append(pstats.Stats(profile).total_calls)
    assert work[1] < 10.5 * work[0]
