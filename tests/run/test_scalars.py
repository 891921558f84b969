"""Tensors of no dimension stay so: inputs, folded constants, in an artifact. NNSmith found that they did not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import optgraph


def model() -> onnx.ModelProto:
    """y = x - shift, where the shift is a squeezed constant: all of shape []."""
    nodes = [helper.make_node("Squeeze", ["w", "axes"], ["shift"]), helper.make_node("Sub", ["x", "shift"], ["y"])]
    constants = [
        numpy_helper.from_array(np.array([0.25], np.float32), "w"),
        numpy_helper.from_array(np.array([0]), "axes"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in "xy"]
    graph = helper.make_graph(nodes, "scalars", values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_scalars_keep_their_shape(backend: str, tmp_path: Path) -> None:
    net = optgraph.compile(model(), backend)
    assert [array.shape for array in net.simplified.constants.values()] == [()]
    net.save(tmp_path / "net.optgraph")
    for one in (net, optgraph.load(tmp_path / "net.optgraph", backend)):
        y = one(np.array(-2.0, np.float32))
        assert isinstance(y, np.ndarray) and y.shape == () and y == -2.25
