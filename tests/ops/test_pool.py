"""Pooling over windows: against its definition, in ONNX Runtime, and as ONNX has it."""

from __future__ import annotations

import numpy as np
import pytest

from optgraph import ops
from optgraph.base.errors import ModelError
from optgraph.ir.values import RELU, Act, Pads, Pair
from optgraph.onnx.read import read
from tests.support.definitions import ACT, POOL_WINDOWS, evaluate, per_channel, pool, rand
from tests.support.onnx_checks import agree, exported, imported, model, single, types, weights

# ---- reference, against the definition


@pytest.mark.parametrize("window", POOL_WINDOWS)
@pytest.mark.parametrize("mode", ["max", "average", "average_with_pads"])
def test_reference_with_everything(window: str, mode: str) -> None:
    op = ops.Pool(
        kernel=(3, 2),
        **POOL_WINDOWS[window],
        mode=mode.split("_")[0],
        count_include_pad=mode == "average_with_pads",
        pre_act=Act("hard_sigmoid", 1.0, -3.0),  # mostly zero, so that padding with zeros would show in a max
        act=ACT["tanh"],
        post=RELU,
    )
    x, b = rand(2, 3, 7, 8) * 3, rand(3)
    y = np.tanh(pool(np.clip(x - 3, 0, 1), op) + per_channel(b))
    residual = rand(*y.shape)
    (out,) = evaluate(op, x, b, residual)
    np.testing.assert_allclose(out, np.maximum(y + residual, 0), atol=1e-12)


@pytest.mark.parametrize("window", POOL_WINDOWS)
def test_max_pool_of_negatives_ignores_padding(window: str) -> None:
    op = ops.Pool(kernel=(3, 2), **POOL_WINDOWS[window], mode="max")
    x = -1 - rand(1, 2, 7, 8) ** 2
    np.testing.assert_array_equal(evaluate(op, x)[0], pool(x, op))


# ---- ONNX out, in ONNX Runtime against the reference


@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 1, 1, 1), (0, 1, 2, 0)])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 1)])
@pytest.mark.parametrize(("mode", "counted"), [("max", False), ("average", False), ("average", True)])
def test_export(pads: Pads, dilation: Pair, mode: str, counted: bool) -> None:
    op = ops.Pool(kernel=(3, 2), stride=(2, 1), pads=pads, dilation=dilation, mode=mode, count_include_pad=counted)
    model = exported(single(op))
    assert types(model) == ["MaxPool" if mode == "max" else "AveragePool"]
    assert model.opset_import[0].version == (19 if mode == "average" and dilation != (1, 1) else 17)


def test_export_with_everything() -> None:
    op = ops.Pool(kernel=(3, 3), pads=(1, 1, 1, 1), mode="average", pre_act=RELU, act=ACT["leaky_relu"], post=RELU)
    graph = single(op, weights(4), residual=2)
    assert types(exported(graph)) == ["Relu", "AveragePool", "Add", "LeakyRelu", "Add", "Relu"]


# ---- ONNX in, against ONNX Runtime


CASES = {
    "max_ceil": [("MaxPool", "x", "y", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1})],
    "max_ceil_pads": [
        ("MaxPool", "x", "y", {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1, "pads": [1, 1, 1, 1]})
    ],
    "max_same": [("MaxPool", "x", "y", {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"})],
    "average_ceil": [("AveragePool", "x", "y", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1})],
    "average_excluding": [("AveragePool", "x", "y", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]})],
    "average_including": [
        ("AveragePool", "x", "y", {"kernel_shape": [3, 3], "pads": [1, 0, 1, 2], "count_include_pad": 1})
    ],
}


@pytest.mark.parametrize("name", CASES)
def test_import(name: str) -> None:
    imported(CASES[name])


MISSING = {  # a window that the image of 9x7 does not fill, though less than a stride is missing
    "down": {"kernel_shape": [11, 3], "strides": [3, 1]},
    "across": {"kernel_shape": [2, 8], "strides": [1, 2], "dilations": [1, 1]},
    "both, padded": {"kernel_shape": [12, 9], "strides": [3, 4], "pads": [1, 0, 0, 1]},
}


@pytest.mark.parametrize("name", MISSING)
@pytest.mark.parametrize("opset", [11, 19])
@pytest.mark.parametrize("op_type, counted", [("MaxPool", 0), ("AveragePool", 0), ("AveragePool", 1)])
def test_a_window_that_the_image_does_not_fill(op_type: str, counted: int, opset: int, name: str) -> None:
    attrs = {key: value for key, value in MISSING[name].items() if op_type == "MaxPool" or key != "dilations"}
    attrs |= {"count_include_pad": 1} if counted else {}
    assert agree(model([(op_type, "x", "y", attrs)], opset=opset)).keys() <= {"Pool", "Pad"}


def test_a_window_that_misses_a_stride_is_refused() -> None:
    """ONNX Runtime gives an empty tensor."""
    with pytest.raises(ModelError, match=r"a window of 12 .* does not fit 9 \+ 0 \+ 0 pixels: give .* larger images"):
        read(model([("MaxPool", "x", "y", {"kernel_shape": [12, 3], "strides": [3, 1]})]))
