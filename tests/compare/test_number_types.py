"""Files of other floating types than float32: compared in that, as every backend computes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from optgraph.compare.bench import bench
from optgraph.compare.verify import verify, verify_net
from optgraph.onnx.sessions import InnerValues
from tests.support.sabotage import sabotaged

TYPES = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16, "float64": TensorProto.DOUBLE}
RNG = np.random.default_rng(0)


def saved(folder: Path, kind: int, opset: int = 22) -> Path:
    """A network of convolutions, all in numbers of one type."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    weights = {"w1": RNG.normal(0, 0.2, (8, 3, 3, 3)), "w2": RNG.normal(0, 0.3, (10, 8, 1, 1))}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Cast", ["c"], ["d"], to=kind),
        helper.make_node("Conv", ["d", "w2"], ["e"]),
        helper.make_node("Constant", [], ["half"], value=numpy_helper.from_array(np.array(0.5, dtype))),
        helper.make_node("Mul", ["e", "half"], ["f"]),
        helper.make_node("Sigmoid", ["f"], ["y"]),
    ]
    values = [
        helper.make_tensor_value_info(name, kind, shape) for name, shape in (("x", ["N", 3, 10, 10]), ("y", None))
    ]
    arrays = [numpy_helper.from_array(array.astype(dtype), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "numbers", values[:1], values[1:], arrays)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), folder / "m.onnx"
    )
    return folder / "m.onnx"


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
@pytest.mark.parametrize("dtype", TYPES)
def test_verify(dtype: str, backend: str, tmp_path: Path) -> None:
    found = verify(saved(tmp_path, TYPES[dtype]), backend, batch=2)
    assert found.ok and found.bound == 1e-5 and found.dtype == "fp32"
    assert 0 < found.outputs[0].rel_l2 < 1e-6
    assert found.regions_compared == found.regions_total


@pytest.mark.parametrize("dtype", TYPES)
def test_verify_sees_what_the_type_itself_would_hide(dtype: str, tmp_path: Path) -> None:
    path = saved(tmp_path, TYPES[dtype])
    found = verify_net(sabotaged(path, "interpret", 0, factor=1.0002), path)
    assert not found.ok and found.first_bad_region is not None
    assert found.first_bad_region["rel_l2"] == pytest.approx(2e-4, rel=0.1)


def test_verify_in_half_precision(tmp_path: Path) -> None:
    found = verify(saved(tmp_path, TensorProto.FLOAT16), "interpret", "fp16")
    assert found.ok and found.bound == 5e-3 and found.outputs[0].rel_l2 > 1e-5


def test_an_older_opset_that_has_no_convolution_of_bfloat16(tmp_path: Path) -> None:
    assert verify(saved(tmp_path, TensorProto.BFLOAT16, opset=17), "torch").ok


def test_bench_of_half_precision(tmp_path: Path) -> None:
    assert bench(saved(tmp_path, TensorProto.FLOAT16), backend="torch", repeats=1, min_seconds=0).repeats == 1


def test_the_numbers_of_a_branch_too() -> None:
    """An If, which an exporter leaves where it could have been decided."""
    half = helper.tensor_dtype_to_np_dtype(TensorProto.FLOAT16)
    value = numpy_helper.from_array(np.array([1 / 3], half))
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node("Constant", [], [name], value=value)],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT16, [1])],
        )
        for name in ("then", "else")
    }
    nodes = [helper.make_node("If", ["c"], ["i"], **branches), helper.make_node("Mul", ["x", "i"], ["y"])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, [4]) for name in "xy"]
    condition = [numpy_helper.from_array(np.array(True), "c")]
    graph = helper.make_graph(nodes, "branches", values[:1], values[1:], condition)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = np.array([1, 3, 5, 7], half)
    for widened, dtype in ((True, np.float32), (False, half)):
        found = InnerValues(model, widened=widened).run(["y"], {"x": x})[0]["y"]
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, x.astype(dtype) * numpy_helper.to_array(value).astype(dtype))
