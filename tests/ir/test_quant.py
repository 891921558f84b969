"""A grid rounds as ONNX's QuantizeLinear and DequantizeLinear do, as ONNX Runtime runs them."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from optgraph.ir.quant import Quant


def _by_onnx_runtime(x: np.ndarray, quant: Quant, unsigned: bool) -> np.ndarray:
    """x by QuantizeLinear, then DequantizeLinear."""
    zero = np.uint8(quant.zero + 128) if unsigned else np.int8(quant.zero)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    parts = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x.shape)),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, list(x.shape)),
    ]
    constants = [
        numpy_helper.from_array(np.float32(quant.scale), "scale"),
        numpy_helper.from_array(np.asarray(zero), "zero"),
    ]
    graph = helper.make_graph(nodes, "g", parts[:1], parts[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize(
    "quant", [Quant(0.5), Quant(0.5, -128), Quant(0.03125, 37), Quant(float(np.float32(0.0173)), 5)]
)
def test_a_grid_is_that_of_onnx(quant: Quant, unsigned: bool) -> None:
    x = np.linspace(-40 * quant.scale, 300 * quant.scale, 3401, dtype=np.float32)  # ties and both ends among them
    y = quant.apply(torch.from_numpy(x)).numpy()
    assert np.array_equal(y, _by_onnx_runtime(x, quant, unsigned))
    assert len(np.unique(y)) > 100


def test_nan_stays_nan() -> None:
    assert Quant(0.5, 3).apply(torch.tensor([float("nan")])).isnan().all()
