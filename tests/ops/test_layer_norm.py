"""Normalisation over the last axes: against numpy, in ONNX Runtime, and through the kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from optgraph import ops
from optgraph.base.errors import ModelError
from optgraph.ir.graph import Graph
from optgraph.ir.values import Value
from optgraph.onnx.read import read
from optgraph.plan.lowering import lower
from tests.support.definitions import evaluate, rand
from tests.support.onnx_checks import agree, exported, model, single, types, weights
from tests.support.run_checks import kernels_agree


def test_reference() -> None:
    x, scale, b = rand(2, 3, 4, 5), rand(4, 5), rand(5)
    (out,) = evaluate(ops.LayerNorm(axis=2, epsilon=0.01), x, scale, b)
    wanted = (x - x.mean((2, 3), keepdims=True)) / np.sqrt(x.var((2, 3), keepdims=True) + 0.01) * scale + b
    np.testing.assert_allclose(out, wanted, rtol=1e-10, atol=1e-12)


def norm(axis: int, *shape: int, bias: bool = True) -> Graph:
    return single(ops.LayerNorm(axis=axis), weights(*shape) + 1, weights(*shape) if bias else None)


def test_export() -> None:
    assert types(exported(norm(3, 8))) == ["LayerNormalization"]


@pytest.mark.parametrize("attrs", [{}, {"axis": 3}, {"axis": -2}, {"axis": 1, "epsilon": 0.5}])
def test_import(attrs: dict[str, Any]) -> None:
    size = {1: (4, 9, 7), -2: (9, 7)}.get(attrs.get("axis"), (7,))
    inits = {"s": weights(*size) + 1, "b": weights(*size)}
    assert agree(model([("LayerNormalization", "x s b", "y", attrs)], inits)) == {"LayerNorm": 1}
    assert agree(model([("LayerNormalization", "x s", "y", attrs)], inits)) == {"LayerNorm": 1}


def test_its_mean_is_not_ours() -> None:
    nodes = [("LayerNormalization", "x s", "y m", {})]
    proto = model(nodes, {"s": weights(7) + 1}, outputs=("y", "m"))
    agree(proto)
    (node,) = read(proto).nodes()
    assert isinstance(node.op, ops.Opaque)


def test_a_scale_that_does_not_fit_is_refused() -> None:
    for shape, reason in (
        ((6,), r"\[6\] and \[7\] do not broadcast"),
        ((9, 7), r"\[9, 7\] does not fit axes of \[7\]"),
    ):
        with pytest.raises(ModelError, match=f"node .y. .*{reason}"):
            read(model([("LayerNormalization", "x s", "y", {})], {"s": weights(*shape)}))


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize(("axis", "shape"), [(3, (8,)), (2, (9, 8)), (1, (4, 9, 8)), (1, (4, 1, 1)), (3, (1,))])
def test_kernel(axis: int, shape: tuple[int, ...], dtype: str) -> None:
    for bias in (False, True):
        assert kernels_agree(norm(axis, *shape, bias=bias), 3, dtype).launches_by_kernel() == {"normalise": 1}


@pytest.mark.parametrize("shape", [("N", 5), ("N", 6, 5), ("N", 2, 3, 4, 5)])
def test_kernel_of_other_ranks(shape: tuple[Any, ...]) -> None:
    kernels_agree(single(ops.LayerNorm(axis=len(shape) - 1), weights(5) + 1, weights(5), shape=shape), 3)


def channels_last(axis: int) -> Graph:
    """Of what a convolution makes, as ConvNeXt has it: between two transposes."""
    graph = Graph()
    x, w = graph.add_input("x", Value(("N", 4, 9, 7))), graph.add_constant(weights(8, 4, 1, 1), "w")
    y = graph.add(ops.Conv(kernel=(1, 1)), [x, w]).output
    y = graph.add(ops.Transpose(perm=(0, 2, 3, 1)), [y]).output if axis == 3 else y
    size = 8 if axis == 3 else 7 * 9
    scale = graph.add_constant(weights(*((size,) if axis == 3 else (9, 7))) + 1, "s")
    y = graph.add(ops.LayerNorm(axis=axis), [y, scale]).output
    graph.outputs = {"y": graph.add(ops.Transpose(perm=(0, 3, 1, 2)), [y]).output if axis == 3 else y}
    return graph


def test_channels_of_images_are_lines() -> None:
    plan = kernels_agree(channels_last(3), 3)
    assert plan.launches_by_kernel() == {"normalise": 1, "pointwise": 1}
    kernels_agree(channels_last(2), 3)


def test_axes_in_another_order_fall_back() -> None:
    """All of an image whose channels lie innermost, and a scale in the order of its axes."""
    graph = channels_last(2)
    (node,) = (node for node in graph.nodes() if isinstance(node.op, ops.LayerNorm))
    graph.replace_node(node, ops.LayerNorm(axis=1), [node.inputs[0], graph.add_constant(weights(8, 9, 7), "s")])
    (fallback,) = lower(graph, 2).fallbacks
    assert "do not lie in memory as one" in fallback.reason
