import numpy as np

from optgraph.ops import Gemm, GlobalPool, MatMul, Reshape
from optgraph.passes.simplify import batchnorm, fold_affine, gemm
from tests.support.networks import Builder, kinds
from tests.support.simplify_checks import applied, binary, refusal


def _features(b: Builder) -> str:
    return b.graph.add(Reshape(shape=("N", 12)), [b.graph.add(GlobalPool(mode="max"), [b.x]).output]).output


def test_constant_matrix():
    b = Builder()
    w = b.constant(12, 7)
    products = [b.graph.add(MatMul(), [_features(b), w], origin=["dense"]).output for _ in range(2)]
    after, outcome = applied(gemm.run, b.done(*products))
    assert outcome.rewrites == 2 and kinds(after)["Gemm"] == 2 and "MatMul" not in kinds(after)
    node = after.producer(after.outputs["y0"])
    assert after.constants[node.get("w")].shape == (7, 12) and node.origin == ("dense",)
    assert np.array_equal(after.constants[node.get("w")].T, b.graph.constants[w])


def test_with_a_bias():
    b = Builder()
    y = binary(b, "add", b.constant(7), b.graph.add(MatMul(), [_features(b), b.constant(12, 7)]).output)
    graph = b.done(y)
    after, _ = applied(lambda g: gemm.run(g) and batchnorm.run(g) and fold_affine.run(g), graph, 1e-6)
    assert kinds(after) == {"GlobalPool": 1, "Reshape": 1, "Gemm": 1}
    assert isinstance(after.nodes()[-1].op, Gemm) and after.nodes()[-1].get("b")


def test_higher_rank():
    b = Builder()
    assert "rank 4 and 2" in refusal(gemm.run, b.done(b.graph.add(MatMul(), [b.x, b.constant(9, 7)]).output))


def test_product_of_two_values():
    b = Builder()
    after, outcome = applied(gemm.run, b.done(b.graph.add(MatMul(), [b.x, b.x]).output))
    assert outcome.rewrites == 0 and kinds(after) == {"MatMul": 1}
