"""Convolution: against its definition, in ONNX Runtime, and as ONNX has it."""

from __future__ import annotations

import numpy as np
import pytest

from optgraph import ops
from optgraph.ir.values import RELU
from tests.support.definitions import ACT, FORMULA, WINDOWS, conv, evaluate, per_channel, rand
from tests.support.onnx_checks import exported, imported, single, types, weights

# ---- reference, against the definition


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_reference_with_everything(window: str, groups: int) -> None:
    """Prologue, bias, activation, residual and its activation; zeros are padded after the prologue."""
    x, w, b = rand(2, 4, 7, 8), rand(8, 4 // groups, 3, 2), rand(8)
    scale, shift = rand(4, seed=1), rand(4, seed=2) + 1
    y = FORMULA["sigmoid"](x * per_channel(scale) + per_channel(shift))
    y = FORMULA["leaky_relu"](conv(y, w, WINDOWS[window], groups) + per_channel(b))
    residual = rand(*y.shape)
    op = ops.Conv(
        kernel=(3, 2),
        groups=groups,
        **WINDOWS[window],
        pre_act=ACT["sigmoid"],
        act=ACT["leaky_relu"],
        post=ACT["clip"],
    )
    (out,) = evaluate(op, x, w, b, residual, scale, shift)
    np.testing.assert_allclose(out, FORMULA["clip"](y + residual), atol=1e-12)


def test_reference_alone() -> None:
    x, w = rand(1, 3, 5, 5), rand(2, 3, 3, 3)
    (out,) = evaluate(ops.Conv(kernel=(3, 3)), x, w)
    np.testing.assert_allclose(out, conv(x, w, WINDOWS["plain"]), atol=1e-12)


def test_reference_with_a_shift_and_no_scale() -> None:
    x, w, shift = rand(1, 3, 5, 5), rand(2, 3, 3, 3), rand(3)
    (out,) = evaluate(ops.Conv(kernel=(3, 3), pads=(1, 1, 1, 1)), x, w, None, None, None, shift)
    expected = conv(x + per_channel(shift), w, {**WINDOWS["plain"], "pads": (1, 1, 1, 1)})
    np.testing.assert_allclose(out, expected, atol=1e-12)


# ---- ONNX out, in ONNX Runtime against the reference


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(
    "window",
    [
        {},
        {"stride": (2, 1), "pads": (1, 0, 1, 0)},
        {"stride": (1, 2), "pads": (0, 1, 2, 0), "dilation": (2, 3)},
    ],
)
def test_export(groups: int, window: dict[str, tuple[int, ...]]) -> None:
    op = ops.Conv(kernel=(3, 2), groups=groups, **window)
    assert types(exported(single(op, weights(8, 4 // groups, 3, 2)))) == ["Conv"]
    assert types(exported(single(op, weights(8, 4 // groups, 3, 2), weights(8)))) == ["Conv"]


def test_export_with_everything() -> None:
    op = ops.Conv(kernel=(3, 3), pads=(1, 1, 1, 1), pre_act=RELU, act=ACT["silu"], post=ACT["clip"])
    graph = single(op, weights(6, 4, 3, 3), weights(6), None, weights(4), weights(4) + 1, residual=3)
    assert types(exported(graph)) == ["Mul", "Add", "Relu", "Conv", "Sigmoid", "Mul", "Add", "Clip"]


# ---- ONNX in, against ONNX Runtime


CASES = {
    "conv_same_upper": [("Conv", "x w", "y", {"auto_pad": "SAME_UPPER", "strides": [2, 2]})],
    "conv_same_lower": [("Conv", "x w", "y", {"auto_pad": "SAME_LOWER", "strides": [2, 2]})],
    "conv_valid_dilated": [("Conv", "x w", "y", {"auto_pad": "VALID", "dilations": [2, 1]})],
    "conv_asymmetric_pads": [("Conv", "x w b", "y", {"pads": [0, 1, 2, 1], "strides": [2, 1]})],
}


@pytest.mark.parametrize("name", CASES)
def test_import(name: str) -> None:
    imported(CASES[name])
