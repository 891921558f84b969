"""Tensors of no dimension stay so: inputs, folded constants, in an artifact. NNSmith found that they did not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import optgraph
from optgraph.onnx.sessions import session


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


# ---- and those without elements, which no kernel takes

EMPTY = {
    "element by element": ("Sub", ["none", "x"], {}),
    "a prelu": ("PRelu", ["none", "slopes"], {}),
    "repeated": ("Tile", ["none", "twice"], {}),
    "picked": ("Gather", ["x", "nobody"], {"axis": 1}),
    "joined to others": ("Concat", ["x", "none", "x"], {"axis": 2}),
    "margins alone": ("Pad", ["none", "around"], {}),
    "a sum of none": ("ReduceSum", ["none", "axis"], {}),
    "a product over none": ("MatMul", ["none", "columns"], {}),
}


@pytest.mark.parametrize("name", EMPTY)
@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "interpret"])
def test_empty_tensors(backend: str, name: str) -> None:
    op_type, inputs, attrs = EMPTY[name]
    constants = {
        "start": np.array([1]),
        "axis": np.array([2]),
        "nobody": np.zeros(0, np.int64),
        "around": np.array([0, 0, 1, 0, 0, 0, 1, 0]),
        "twice": np.array([1, 2, 1, 1]),
        "slopes": np.ones((3, 1, 1), np.float32),
        "columns": np.ones((1, 5), np.float32),
    }
    nodes = [
        helper.make_node("Slice", ["x", "start", "start", "axis"], ["none"]),
        helper.make_node(op_type, inputs, ["y"], **attrs),
    ]
    x = np.random.default_rng(0).standard_normal((2, 3, 1, 1), dtype=np.float32)
    graph = helper.make_graph(
        nodes,
        "empty",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 1, 1])],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(array, key) for key, array in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (wanted,) = session(proto.SerializeToString(), optimize=False).run(None, {"x": x})
    np.testing.assert_allclose(np.asarray(optgraph.compile(proto, backend)({"x": x})), wanted, rtol=1e-5)
