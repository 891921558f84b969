"""Two operators in one: against their definition, and as the chain that ONNX has for them."""

from __future__ import annotations

import numpy as np
import pytest

from optgraph import ops
from optgraph.base.errors import ModelError
from optgraph.ir.values import IDENTITY, RELU, Act, Segment, Value
from tests.support.definitions import ACT, FORMULA, POOL_WINDOWS, WINDOWS, conv, evaluate, per_channel, pool, rand
from tests.support.onnx_checks import exported, single, types, weights


def test_merged_pointwise() -> None:
    x, scale, shift = rand(2, 4, 5, 6), rand(4, seed=1), rand(4, seed=2)
    w1, b1, w2 = rand(3, 4, 1, 1), rand(3), rand(5, 4, 1, 1)
    segments = (Segment(3, ACT["tanh"]), Segment(5, RELU))
    op = ops.MergedPointwise(segments=segments, stride=(2, 2), pre_act=RELU)
    first, second = evaluate(op, x, scale, shift, w1, b1, w2, None)
    pre = np.maximum(x * per_channel(scale) + per_channel(shift), 0)[:, :, ::2, ::2]
    y1 = np.einsum("ncij,oc->noij", pre, w1[:, :, 0, 0]) + per_channel(b1)
    y2 = np.einsum("ncij,oc->noij", pre, w2[:, :, 0, 0])
    np.testing.assert_allclose(first, np.tanh(y1), atol=1e-12)
    np.testing.assert_allclose(second, np.maximum(y2, 0), atol=1e-12)


def test_merged_pointwise_export() -> None:
    segments = (Segment(3, RELU), Segment(5, IDENTITY), Segment(2, ACT["silu"]))
    operands = [weights(3, 4, 1, 1), weights(3), weights(5, 4, 1, 1), None, weights(2, 4, 1, 1), weights(2)]
    op = ops.MergedPointwise(segments=segments, stride=(2, 2), pre_act=ACT["tanh"])
    graph = single(op, weights(4), weights(4) - 1, *operands)
    assert types(exported(graph)) == ["Mul", "Add", "Tanh", "Conv", "Relu", "Conv", "Conv", "Sigmoid", "Mul"]


@pytest.mark.parametrize("window", WINDOWS)
def test_separable(window: str) -> None:
    x, dw, dw_b, w, b = rand(2, 4, 7, 8), rand(4, 1, 3, 2), rand(4), rand(6, 4, 1, 1), rand(6)
    scale, shift = rand(4, seed=1), rand(4, seed=2) + 1
    y = np.maximum(x * per_channel(scale) + per_channel(shift), 0)
    y = FORMULA["silu"](conv(y, dw, WINDOWS[window], groups=4) + per_channel(dw_b))
    y = FORMULA["hard_swish"](np.einsum("ncij,oc->noij", y, w[:, :, 0, 0]) + per_channel(b))
    residual = rand(*y.shape)
    op = ops.Separable(
        kernel=(3, 2), **WINDOWS[window], pre_act=RELU, mid=ACT["silu"], act=ACT["hard_swish"], post=RELU
    )
    (out,) = evaluate(op, x, dw, dw_b, w, b, residual, scale, shift)
    np.testing.assert_allclose(out, np.maximum(y + residual, 0), atol=1e-12)


def test_separable_export() -> None:
    op = ops.Separable(
        kernel=(3, 3), stride=(2, 1), pads=(1, 0, 0, 1), pre_act=RELU, mid=ACT["clip"], act=ACT["tanh"], post=RELU
    )
    operands = [weights(4, 1, 3, 3), weights(4), weights(6, 4, 1, 1), weights(6)]
    graph = single(op, *operands, None, weights(4), weights(4) + 1, residual=5)
    assert types(exported(graph)) == ["Mul", "Add", "Relu", "Conv", "Clip", "Conv", "Tanh", "Add", "Relu"]
    plain = single(ops.Separable(kernel=(3, 3)), weights(4, 1, 3, 3), None, weights(6, 4, 1, 1))
    assert types(exported(plain)) == ["Conv", "Conv"]


@pytest.mark.parametrize("window", POOL_WINDOWS)
def test_pooled_pointwise(window: str) -> None:
    x, w, b = rand(2, 4, 7, 8) - 3, rand(6, 4, 1, 1), rand(6)
    window_of = ops.Pool(kernel=(3, 2), **POOL_WINDOWS[window], mode="max")
    p = pool(FORMULA["silu"](x), window_of)
    y = FORMULA["hard_swish"](np.einsum("ncij,oc->noij", p, w[:, :, 0, 0]) + per_channel(b))
    residual = rand(*y.shape)
    acts: dict[str, Act] = {"pre_act": ACT["silu"], "act": ACT["hard_swish"], "post": RELU}
    (out,) = evaluate(ops.PooledPointwise(kernel=(3, 2), **POOL_WINDOWS[window], **acts), x, w, b, residual)
    np.testing.assert_allclose(out, np.maximum(y + residual, 0), atol=1e-12)


@pytest.mark.parametrize("shape", [(6, 4), (6, 5, 1, 1), (6, 4, 3, 1)])
def test_pooled_pointwise_refuses_what_does_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="for 4 channels"):
        ops.PooledPointwise(kernel=(3, 3)).infer([Value((1, 4, 7, 7)), Value(shape)])


def test_pooled_pointwise_export() -> None:
    acts: dict[str, Act] = {"pre_act": RELU, "act": ACT["tanh"], "post": RELU}
    op = ops.PooledPointwise(kernel=(3, 2), stride=(2, 1), pads=(1, 0, 0, 1), **acts)
    graph = single(op, weights(6, 4, 1, 1), weights(6), residual=3)
    assert types(exported(graph)) == ["Relu", "MaxPool", "Conv", "Tanh", "Add", "Relu"]
    wide = single(ops.PooledPointwise(kernel=(2, 2), pads=(2, 0, 0, 2), dilation=(2, 2)), weights(6, 4, 1, 1))
    assert types(exported(wide)) == ["Pad", "MaxPool", "Conv"]
