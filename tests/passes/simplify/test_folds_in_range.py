"""Folds that would leave the range of a file's numbers are refused; those that stay within are not."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from optgraph.base.in_range import out_of_range, overflow
from optgraph.ir.graph import Graph
from optgraph.ir.values import Value
from optgraph.onnx.read import read
from optgraph.ops import Affine, BatchNorm, Binary, Conv, Opaque
from optgraph.passes.simplify import batchnorm, fold_affine
from optgraph.run.reference import run
from tests.support.networks import kinds

HALF, SINGLE = np.dtype("float16"), np.dtype("float32")


def test_what_is_in_range():
    assert out_of_range(np.array([1.0, 6e4]), HALF) is None and out_of_range(np.array([7e4]), SINGLE) is None
    assert "not finite in float16" in (out_of_range(np.array([1.0, 7e4]), HALF) or "")
    assert "not finite in float32" in (overflow(np.array([1e39]), SINGLE) or "")
    assert overflow(np.array([np.nan]), HALF) == "a folded constant is not finite"
    assert "too small for float16" in (out_of_range(np.array([1.0, 1e-8]), HALF) or "")
    assert "too small for float16" in (out_of_range(np.array([2.7e-7]), HALF) or "")  # three bits are left of it
    assert out_of_range(np.array([0.0, 7e-5]), HALF) is None
    assert out_of_range(np.array([[1e-8, 1.0]]), HALF) is None  # beside the other weights of its channel it is nothing
    assert overflow(np.array([1e-8]), HALF) is None


def half(*nodes: tuple, dtype: str = "float16", **arrays: float) -> Graph:
    """A graph of operators one behind the other, each with the names of its constants, of which a channel has one."""
    graph = Graph()
    value = graph.add_input("x", Value((1, 4, 5, 5), dtype))
    for name, number in arrays.items():
        shape = (4, 4, 1, 1) if name.startswith("w") else (4, 1, 1) if name.startswith("c") else (4,)
        graph.add_constant(np.full(shape, number, dtype), name)
    for op, *names in nodes:
        value = graph.add(op, [value, *names]).output
    graph.outputs = {"y": value}
    return graph


NORM, CONV = BatchNorm(epsilon=1e-6), Conv(kernel=(1, 1))
MUL, DIV, ADD = (Binary(fn=fn) for fn in ("mul", "div", "add"))
PARTS = {"s": 1.0, "b": 0.0, "mean": 200.0, "var": 0.0}

# A pass and a graph whose fold leaves float16, though each of its constants lies in it.
LEAVING = {
    "the shift of a batchnorm": (batchnorm.run, half((NORM, *PARTS), **PARTS)),
    "a product": (batchnorm.run, half((MUL, "c"), (MUL, "c2"), c=3e4, c2=3.0)),
    "a product, too small": (batchnorm.run, half((MUL, "c"), (MUL, "c2"), c=1e-3, c2=1e-5)),
    "a shift times a scale": (batchnorm.run, half((ADD, "c"), (MUL, "c2"), c=3e4, c2=3.0)),
    "a quotient": (batchnorm.run, half((DIV, "c"), c=1e-5)),
    "a weight behind which a scale is": (
        fold_affine.run,
        half((CONV, "w"), (Affine(), "s", "t"), w=3e4, s=3.0, t=0.0),
    ),
    "a weight, too small": (fold_affine.run, half((CONV, "w"), (Affine(), "s", "t"), w=1e-4, s=1e-4, t=0.0)),
    "a bias behind which a scale is": (
        fold_affine.run,
        half((CONV, "w", "b"), (Affine(), "s", "t"), w=1.0, b=3e4, s=3.0, t=0.0),
    ),
    "a weight before which a scale is": (
        fold_affine.run,
        half((Affine(), "s", "t"), (CONV, "w"), w=3e4, s=3.0, t=0.0),
    ),
    "a sum over a shift": (fold_affine.run, half((Affine(), "s", "t"), (CONV, "w"), w=1.0, s=1.0, t=3e4)),
}


@pytest.mark.parametrize("name", LEAVING)
def test_a_fold_that_leaves_float16_is_refused_there_only(name):
    fold, graph = LEAVING[name]
    before = kinds(graph)
    outcome = fold(graph)
    assert outcome.rewrites == 0 and kinds(graph) == before
    assert "float16" in outcome.refusals[0].reason


@pytest.mark.parametrize("name", LEAVING)
def test_the_same_fold_in_float32_is_done(name):
    fold, graph = LEAVING[name]
    wide = half(dtype="float32")
    for value, array in graph.constants.items():
        wide.add_constant(array.astype(np.float32), value)
    for node in graph.nodes():
        wide.add(node.op, node.inputs, node.outputs)
    wide.outputs = dict(graph.outputs)
    assert fold(wide).rewrites == 1
    assert all(np.isfinite(array).all() for array in wide.constants.values())


def test_a_product_that_leaves_float32():
    graph = half((CONV, "w"), (Affine(), "s", "t"), dtype="float32", w=1e30, s=1e30, t=0.0)
    outcome = fold_affine.run(graph)
    assert outcome.rewrites == 0 and "not finite" in outcome.refusals[0].reason


@pytest.mark.parametrize(
    ("alpha", "beta", "kept"), [(3.0, 1.0, True), (1.0, 3.0, True), (1e-12, 1.0, True), (0.5, 0.5, False)]
)
def test_factors_of_a_gemm_are_folded_within_range(alpha, beta, kept):
    """Its product, by ONNX, is taken before `alpha`."""
    arrays = {"w": np.full((4, 3), 3e4, np.float16), "b": np.full(3, 3e4, np.float16)}
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT16, s) for n, s in (("x", (2, 4)), ("y", (2, 3))))
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], alpha=alpha, beta=beta)
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    model = helper.make_model(
        helper.make_graph([node], "g", [x], [y], weights), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    graph = read(model)
    assert [isinstance(node.op, Opaque) for node in graph.nodes()] == [kept]
    feed = np.full((2, 4), 1e-5, np.float16)
    wanted = alpha * (feed.astype(float) @ arrays["w"].astype(float)) + beta * arrays["b"].astype(float)
    found = run(graph, {"x": feed})["y"].numpy()
    np.testing.assert_allclose(found, wanted, rtol=2e-3)
