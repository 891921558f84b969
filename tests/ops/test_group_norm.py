"""Normalisation over groups, as ONNX has it in opset 18 and 21, and over axes: against numpy, in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

from optgraph import ops
from optgraph.base.errors import ModelError
from optgraph.ir.graph import Graph
from optgraph.ir.values import Value
from optgraph.onnx.read import read
from optgraph.plan.lowering import lower
from tests.support.definitions import evaluate, per_channel, rand
from tests.support.onnx_checks import agree, exported, model, single, types, weights
from tests.support.run_checks import kernels_agree


def test_reference() -> None:
    x, scale, b = rand(2, 6, 4, 5), rand(6), rand(6, seed=1)
    (out,) = evaluate(ops.GroupNorm(groups=3, epsilon=0.01), x, scale, b)
    rows = x.reshape(2, 3, -1)
    rows = (rows - rows.mean(2, keepdims=True)) / np.sqrt(rows.var(2, keepdims=True) + 0.01)
    np.testing.assert_allclose(out, rows.reshape(x.shape) * per_channel(scale) + per_channel(b), rtol=1e-10, atol=1e-12)


def norm() -> Graph:
    return single(ops.GroupNorm(groups=2, epsilon=0.01), weights(4), weights(4) + 1)


def test_export_before_and_since_opset_21() -> None:
    assert types(exported(norm())) == ["Reshape", "InstanceNormalization", "Reshape", "Mul", "Add"]
    graph = norm()
    graph.opset = 21
    assert types(exported(graph)) == ["GroupNormalization"]


@pytest.mark.parametrize("shape", [("n", 4, 9, 7), ("n", 4, 9), ("n", 4, 2, 3, 5)])
def test_import_of_a_scale_a_group_and_a_scale_a_channel(shape: tuple[object, ...]) -> None:
    for opset, length in ((18, 2), (21, 4)):
        inits = {"s": weights(length), "b": weights(length) + 1}
        found = agree(model([("GroupNormalization", "x s b", "y", {"num_groups": 2})], inits, shape, opset))
        assert found == {"GroupNorm": 1}


@pytest.mark.parametrize(("groups", "length", "opset"), [(3, 4, 21), (2, 4, 18), (2, 3, 21), (0, 4, 21)])
def test_what_does_not_fit_is_refused(groups: int, length: int, opset: int) -> None:
    inits = {"s": weights(length), "b": weights(length)}
    with pytest.raises(ModelError, match=r"node .y. \(GroupNorm\w*\): .*(groups|channel)"):
        read(model([("GroupNormalization", "x s b", "y", {"num_groups": groups})], inits, opset=opset))


@pytest.mark.parametrize("shape", [("n", 4, 9, 7), ("n", 4, 9), ("n", 4, 2, 3, 5)])
def test_a_group_a_channel_is_instance_normalization(shape: tuple[object, ...]) -> None:
    inits = {"s": weights(4) + 1, "b": weights(4)}
    proto = model([("InstanceNormalization", "x s b", "y", {"epsilon": 0.1})], inits, shape)
    assert agree(proto) == {"GroupNorm": 1}
    assert types(exported(read(proto))) == ["InstanceNormalization"]


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_kernel(groups: int, dtype: str) -> None:
    expected = {"normalise": 1} if groups == 4 else {"normalise": 1, "elementwise": 1}
    graph = single(ops.GroupNorm(groups=groups), weights(4) + 1, weights(4))
    assert kernels_agree(graph, 3, dtype).launches_by_kernel() == expected


@pytest.mark.parametrize("shape", [("N", 4, 9), ("N", 4, 2, 3, 5)])
def test_kernel_of_other_ranks(shape: tuple[int | str, ...]) -> None:
    kernels_agree(single(ops.GroupNorm(groups=4), weights(4) + 1, weights(4), shape=shape), 3)
    (fallback,) = lower(single(ops.GroupNorm(groups=2), weights(4), weights(4), shape=shape), 3).fallbacks
    assert "groups of channels of rank" in fallback.reason


@pytest.mark.parametrize("groups", [1, 4, 8])
def test_kernel_of_images_whose_channels_lie_innermost(groups: int) -> None:
    graph = Graph()
    x, w = graph.add_input("x", Value(("N", 4, 9, 7))), graph.add_constant(weights(8, 4, 1, 1), "w")
    vectors = [graph.add_constant(weights(8) + 1, "scale"), graph.add_constant(weights(8), "b")]
    y = graph.add(ops.GroupNorm(groups=groups), [graph.add(ops.Conv(kernel=(1, 1)), [x, w]).output, *vectors]).output
    graph.outputs = {"y": y}
    kernels_agree(graph, 3)


# ---- over axes


def test_the_reference_over_axes() -> None:
    x = rand(2, 3, 4, 5)
    (out,) = evaluate(ops.MeanVarianceNorm(axes=(1, 3)), x)
    wanted = (x - x.mean((1, 3), keepdims=True)) / x.std((1, 3), keepdims=True)
    np.testing.assert_allclose(out, wanted, rtol=1e-8, atol=1e-8)
    flat = np.full((2, 3, 4, 5), 0.25)
    assert not evaluate(ops.MeanVarianceNorm(axes=(1, 3)), flat)[0].any()


@pytest.mark.parametrize("attrs", [{}, {"axes": [2, 3]}, {"axes": [1, -1]}])
@pytest.mark.parametrize("opset", [9, 17])
def test_import_over_axes(attrs: dict[str, list[int]], opset: int) -> None:
    assert agree(model([("MeanVarianceNormalization", "x", "y", attrs)], opset=opset)) == {"MeanVarianceNorm": 1}


def test_export_over_axes() -> None:
    assert types(exported(single(ops.MeanVarianceNorm(axes=(1, 2))))) == ["MeanVarianceNormalization"]
    with pytest.raises(ModelError, match="axis 4"):
        read(model([("MeanVarianceNormalization", "x", "y", {"axes": [4]})]))
