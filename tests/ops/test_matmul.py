"""Products of matrices: against numpy, in ONNX Runtime, and through the kernel, nothing falling back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from optgraph import ops
from optgraph.ir.graph import Graph
from optgraph.ir.values import Shape, Value
from optgraph.onnx.read import read
from optgraph.plan.lowering import lower
from tests.support.definitions import evaluate, rand
from tests.support.onnx_checks import agree, exported, model, single, types, weights
from tests.support.run_checks import kernels_agree


def test_reference() -> None:
    x, y = rand(2, 3, 4), rand(4, 5)
    np.testing.assert_allclose(evaluate(ops.MatMul(), x, y)[0], x @ y, atol=1e-12)


def test_export() -> None:
    assert types(exported(single(ops.MatMul(), weights(8, 5)))) == ["MatMul"]


@pytest.mark.parametrize("y", [(7, 5), (4, 7, 5), (7,)])
def test_import(y: tuple[int, ...]) -> None:
    """A product with a vector stays as it is."""
    proto = model([("MatMul", "x y", "z", {})], {"y": weights(*y)}, outputs=("z",))
    assert agree(proto) == {"MatMul": 1}
    (node,) = read(proto).nodes()
    assert isinstance(node.op, ops.MatMul if len(y) > 1 else ops.Opaque)


def product(x: Shape, y: Shape, constant: str = "", order: Sequence[int] = ()) -> Graph:
    """x @ y, both of them inputs but for `constant`; order: of x's axes, before."""
    graph, names = Graph(), []
    for name, shape in (("x", x), ("y", y)):
        if name == constant:
            names.append(graph.add_constant(weights(*shape), name))
        else:
            names.append(graph.add_input(name, Value(shape)))
    if order:
        names[0] = graph.add(ops.Transpose(perm=tuple(order)), [names[0]]).output
    graph.outputs = {"z": graph.add(ops.MatMul(), names).output}
    return graph


SHAPES: list[tuple[Shape, Shape]] = [
    (("N", 5), (5, 7)),
    (("N", 6, 5), (5, 7)),
    (("N", 6, 5), ("N", 5, 7)),
    (("N", 1, 5), (5, 7)),
    (("N", 1, 5), ("N", 5, 7)),
    (("N", 6, 1), ("N", 1, 7)),
    (("N", 4, 6, 8), ("N", 4, 8, 5)),
    (("N", 4, 1, 8), ("N", 1, 8, 5)),
    (("N", 4, 6, 8), (4, 8, 5)),
    (("N", 1, 6, 8), (4, 8, 5)),
    ((4, 6, 8), ("N", 1, 8, 5)),
    ((6, 8), ("N", 4, 8, 5)),
    (("N", 2, 3, 6, 8), (8, 5)),
    (("N", 2, 3, 6, 8), (2, 1, 8, 5)),
    (("N", 2, 3, 6, 8), ("N", 2, 3, 8, 5)),
]


@pytest.mark.parametrize("i", range(len(SHAPES)))
def test_every_broadcast(i: int) -> None:
    for batch in (1, 3):
        kernels_agree(product(*SHAPES[i]), batch)
    for constant, shape in zip("xy", SHAPES[i], strict=True):
        if "N" not in shape:
            plan = kernels_agree(product(*SHAPES[i], constant), 3, "fp16" if i % 2 else "fp32")
            assert plan.launches_by_kernel() == {"matmul": 1}


@pytest.mark.parametrize("order", [(0, 2, 1, 3), (0, 3, 2, 1), (0, 1, 3, 2), (0, 2, 3, 1)])
def test_operands_are_read_where_they_are(order: tuple[int, ...]) -> None:
    x: list[int | str] = ["N", 8, 16, 24]
    depth = x[order[3]]
    plan = kernels_agree(product(tuple(x), (depth, 5), "y", order))
    assert plan.launches_by_kernel() == {"matmul": 1}


def test_a_weight_for_all_images_is_one_product() -> None:
    """The rows of all images are rows of one matrix."""
    (call,) = lower(product(("N", 6, 8), (8, 5), "y"), 3).calls
    assert call.reads["x"].shape == (1, 1, 18, 8)


def test_images_of_a_convolution() -> None:
    """Channels lie innermost: heads whose elements are apart."""
    graph = Graph()
    x = graph.add_input("x", Value(("N", 8, 7, 5)))
    relu = graph.add(ops.Conv(kernel=(1, 1)), [x, graph.add_constant(weights(16, 8, 1, 1), "w")]).output
    graph.outputs = {"z": graph.add(ops.MatMul(), [relu, graph.add_constant(weights(5, 6), "v")]).output}
    kernels_agree(graph, 3)


def attention(scale: bool) -> Graph:
    graph = Graph()
    x = graph.add_input("x", Value(("N", 9, 3 * 4 * 8)))
    split = graph.add(ops.Reshape(shape=("N", 9, 3, 4, 8)), [x]).output
    parts = []
    for i, perm in enumerate([(0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)]):
        part = graph.add(ops.Slice(starts=(i,), ends=(i + 1,), axes=(2,), steps=(1,)), [split]).output
        part = graph.add(ops.Reshape(shape=("N", 9, 4, 8)), [part]).output
        parts.append(graph.add(ops.Transpose(perm=perm), [part]).output)
    scores = graph.add(ops.MatMul(), parts[:2]).output
    if scale:
        factor = graph.add_constant(np.array(8**-0.5, np.float32), "scale")
        scores = graph.add(ops.Binary(fn="mul"), [scores, factor]).output
    y = graph.add(ops.MatMul(), [graph.add(ops.Softmax(axis=3), [scores]).output, parts[2]]).output
    y = graph.add(ops.Transpose(perm=(0, 2, 1, 3)), [y]).output
    graph.outputs = {"y": graph.add(ops.Reshape(shape=("N", 9, 32)), [y]).output}
    return graph


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_attention(scale: bool, dtype: str) -> None:
    plan = kernels_agree(attention(scale), 2, dtype)
    assert plan.launches_by_kernel().keys() <= {"matmul", "softmax", "elementwise", "copy"}


def test_leading_axes_that_do_not_merge_fall_back() -> None:
    (fallback,) = lower(product(("N", 2, 1, 3, 4, 5), (1, 2, 2, 1, 5, 6), "y"), 2).fallbacks
    assert "do not merge" in fallback.reason


def test_a_batch_of_any_size_needs_no_other_kernels() -> None:
    for x, y in SHAPES:
        constants = [[call.arguments["x"].strides[2:] for call in lower(product(x, y), n).calls] for n in (2, 3, 8)]
        assert constants[0] == constants[1] == constants[2]
