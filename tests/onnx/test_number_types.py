"""What is written is valid for every type of floating numbers, and runs in ONNX Runtime where the original does."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

import optgraph
from optgraph import ops
from optgraph.api.graph_json import graph_from_json
from optgraph.base.errors import ModelError
from optgraph.ir.graph import Graph
from optgraph.ir.quant import Quant
from optgraph.ir.values import Value
from optgraph.onnx.read import read
from optgraph.onnx.sessions import session
from optgraph.onnx.write import to_onnx
from optgraph.run import reference
from tests.support.definitions import ACT
from tests.support.number_types import of_type
from tests.support.onnx_checks import model, weights
from tests.support.paths import ROOT

EVERY_OPERATOR = (ROOT / "tests" / "api" / "every_operator.json").read_text()
DTYPES = ("float32", "float64", "float16", "bfloat16")


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_operator_is_written_validly(dtype: str) -> None:
    data = json.loads(EVERY_OPERATOR.replace("float32", dtype))
    if dtype == "float64":  # of which ONNX has no grids
        data["grids"] = []
        data["nodes"] = [node for node in data["nodes"] if node["op"] != "FakeQuantize"]
        data["outputs"] = [output for output in data["outputs"] if not output[1].startswith("FakeQuantize")]
    shapes = {name: [int(size) for size in name.partition(": ")[2].split("x")] for name in data["constants"]}
    graph = graph_from_json(data, {name: np.zeros(shape, np.dtype(dtype)) for name, shape in shapes.items()})
    onnx.checker.check_model(to_onnx(graph), full_check=True)


def test_doubles_on_a_grid_are_not_written() -> None:
    graph = Graph("g")
    graph.add_input("x", Value((2, 3), "float64"))
    graph.outputs["y"] = graph.add(ops.FakeQuantize(quant=Quant(0.5)), ["x"]).output
    with pytest.raises(ModelError, match="nothing of float64 to a grid"):
        to_onnx(graph)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_activation_is_written_validly(dtype: str) -> None:
    graph = Graph("activations")
    x = graph.add_input("x", Value((2, 3), dtype))
    for name, act in ACT.items():
        graph.outputs[name] = graph.add(ops.Activation(act=act), [x]).output
    onnx.checker.check_model(to_onnx(graph), full_check=True)


OPSET = 26  # which has a Celu of all types; ONNX Runtime has it of none
FLOAT32_ONLY = {
    "Celu": (OPSET, ("Celu", "x", "y", {"alpha": 0.7})),
    "MeanVarianceNormalization": (17, ("MeanVarianceNormalization", "x", "y", {"axes": [1, 2]})),
    "a pool of the whole image": (17, ("MaxPool", "x", "y", {"kernel_shape": [9, 7]})),
    "a mean of the whole image": (17, ("ReduceMean", "x", "y", {"axes": [2, 3]})),
}


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
@pytest.mark.parametrize("name", FLOAT32_ONLY)
def test_what_onnx_or_onnxruntime_has_for_float32_alone_is_written_otherwise(name: str, dtype: type) -> None:
    opset, node = FLOAT32_ONLY[name]
    proto = model([node], shape=(2, 4, 9, 7), opset=opset)
    graph = optgraph.simplify(read(of_type(proto, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))))
    x = weights(2, 4, 9, 7).astype(dtype)
    (found,) = session(to_onnx(graph).SerializeToString()).run(None, {"x": x})
    (wanted,) = reference.run(graph, {"x": x}, torch.float64).values()
    error = np.linalg.norm(found - wanted.numpy()) / np.linalg.norm(wanted)
    assert found.dtype == dtype and error <= (1e-14 if dtype == np.float64 else 1e-3)
