"""ONNX's backend interface: a part of the standard's own node tests, and the rules for passing and skipping."""

from __future__ import annotations

import json
import unittest
from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.backend.test.runner import BackendIsNotSupposedToImplementIt

from benchmarks import conformance, record
from optgraph.adapters.onnx_backend import OptgraphBackend

# Operators whose every case runs here; benchmarks/conformance.py runs all of them.
SUBSET = frozenset(
    (
        *("AveragePool", "Conv", "GlobalAveragePool", "MaxPool", "Resize"),
        *("BatchNormalization", "GroupNormalization", "LRN", "LayerNormalization"),
        *("Clip", "Gelu", "Gemm", "MatMul", "Max", "ReduceMean", "ReduceSum", "Softmax", "Sub", "Sum", "Equal"),
        *("Cast", "Concat", "ConstantOfShape", "Dropout", "Flatten", "Identity", "Pad", "Reshape", "Shape", "Slice"),
        *("Split", "Squeeze", "Transpose", "Unsqueeze"),
    )
)


def model(nodes: list[onnx.NodeProto], inputs: dict[str, list], outputs: list[str], opset: int = 17) -> onnx.ModelProto:
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["unknown"]) for name in outputs]
    graph = helper.make_graph(nodes, "test", infos, results)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize("backend", conformance.BACKENDS)
def test_the_standards_node_tests(backend: str) -> None:
    names = {case.name for case in conformance.cases() if case.operator in SUBSET and not case.narrow}
    found = dict(conformance.outcomes(backend, names))
    assert found.keys() == names
    assert {name: o.detail for name, o in found.items() if o.kind == "failed"} == {}
    kinds = Counter(o.kind for o in found.values())
    whole, part, skipped, _ = conformance.BACKENDS[backend]
    assert kinds[whole] > 70 and (backend == "torch" or kinds[part] > 70) and kinds[skipped] < 0.1 * len(names)
    assert found["test_basic_conv_with_padding"].kind == whole
    assert "training mode" in found["test_training_dropout"].detail
    assert found["test_batchnorm_epsilon_training_mode"].kind == "skipped"
    assert found["test_group_normalization_example"].kind == whole


def test_what_passes_without_running_has_failed() -> None:
    passed, kinds = unittest.TestResult(), conformance.BACKENDS["torch"]
    rep = OptgraphBackend.prepare(model([helper.make_node("Relu", ["x"], ["y"])], {"x": [3]}, ["y"]))
    assert conformance.outcome(passed, None, kinds).kind == "failed"
    assert conformance.outcome(passed, rep, kinds) == ("failed", "passed without running")
    rep.run([np.zeros(3, np.float32)])
    assert conformance.outcome(passed, rep, kinds) == ("own", "")


@pytest.mark.parametrize(
    "node, inputs, reason",
    [
        (helper.make_node("Relu", ["x"], ["y"]), [np.zeros(0, np.float32)], "without elements"),
        (helper.make_node("Relu", ["x"], ["y"]), [np.array(["a"], object)], "type string"),
        (helper.make_node("Relu", ["x"], ["y"]), [[np.zeros(1)]], "a sequence"),
        (helper.make_node("SequenceConstruct", ["x"], ["y"]), [np.zeros(1, np.float32)], "shape of its output"),
        (helper.make_node("Dropout", ["x", "", "t"], ["y"]), [np.ones(3, np.float32), np.array(True)], "training mode"),
    ],
)
def test_a_refusal_is_a_skip_with_its_reason(node: onnx.NodeProto, inputs: list, reason: str) -> None:
    names = [name for name in node.input if name]
    with pytest.raises(unittest.SkipTest, match=reason) as caught:
        OptgraphBackend.prepare(model([node], {name: [1] for name in names}, ["y"])).run(
            dict(zip(names, inputs, strict=True))
        )
    assert not isinstance(caught.value, BackendIsNotSupposedToImplementIt)


def test_devices() -> None:
    assert OptgraphBackend.supports_device("CPU") and not OptgraphBackend.supports_device("TPU")
    with pytest.raises(unittest.SkipTest, match="no device TPU"):
        OptgraphBackend.prepare(model([helper.make_node("Relu", ["x"], ["y"])], {"x": [3]}, ["y"]), "TPU")


@pytest.mark.parametrize("backend", ["torch", "interpret"])
def test_run_model_with_open_dimensions_and_several_outputs(backend: str, monkeypatch) -> None:
    monkeypatch.setenv("OPTGRAPH_ONNX_BACKEND", backend)
    nodes = [
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("AveragePool", ["y"], ["0"], kernel_shape=[2, 2], auto_pad="SAME_UPPER"),
    ]
    rep = OptgraphBackend.prepare(model(nodes, {"x": ["N", 3, "height", "width"]}, ["y", "0"]))
    for shape in ((1, 3, 4, 5), (2, 3, 7, 6)):
        x = np.random.default_rng(0).standard_normal(shape, np.float32)
        found = rep.run(x)
        np.testing.assert_allclose(found[0], np.maximum(x, 0), rtol=1e-6)
        assert found["0"] is found[1] and found[1].shape == shape and found[1].std() > 0.1
    assert rep.runs == 2


def test_a_model_without_inputs() -> None:
    constant = helper.make_node("Constant", [], ["c"], value_floats=[1.0, -2.0])
    (found,) = OptgraphBackend.run_model(model([constant, helper.make_node("Relu", ["c"], ["y"])], {}, ["y"]), [])
    np.testing.assert_array_equal(found, np.array([1, 0], np.float32))


def test_run_node_in_an_older_opset() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 4), np.float32)
    node = helper.make_node("Softmax", ["x"], ["y"], axis=1)
    (old,) = OptgraphBackend.run_node(node, [x], opset_version=11)
    (new,) = OptgraphBackend.run_node(node, [x])
    np.testing.assert_allclose(old.sum((1, 2)), 1, rtol=1e-5)  # before opset 13, over all axes from `axis` on
    np.testing.assert_allclose(new.sum(1), 1, rtol=1e-5)


def test_parameters_are_compiled_in_anew_when_they_change() -> None:
    x = np.arange(6, dtype=np.float32)
    for shape in ((2, 3), (3, 2)):
        (found,) = OptgraphBackend.run_node(helper.make_node("Reshape", ["x", "s"], ["y"]), [x, np.array(shape)])
        assert found.shape == shape
    rep = OptgraphBackend.prepare(model([helper.make_node("Mul", ["x", "y"], ["z"])], {"x": [6], "y": [6]}, ["z"]))
    np.testing.assert_array_equal(rep.run([x, x])[0], x * x)
    np.testing.assert_array_equal(rep.run([x, x + 1])[0], x * (x + 1))


def test_bfloat16_goes_through() -> None:
    bfloat16 = helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)
    (found,) = OptgraphBackend.run_node(helper.make_node("Relu", ["x"], ["y"]), [np.array([-1, 1.5], bfloat16)])
    assert found.dtype == bfloat16 and found.astype(np.float32).tolist() == [0, 1.5]


def test_the_scoreboard_is_what_the_results_say() -> None:
    found = json.loads((record.RESULTS / "conformance.json").read_text())
    assert conformance.DOCUMENT.read_text() == conformance.document(found), "run python -m benchmarks.conformance"
    assert {row["operator"] for row in found["rows"]} == {
        o for names in conformance.OPERATORS.values() for o in names.split()
    }
    for backend, columns in conformance.BACKENDS.items():
        for row in found["rows"]:
            counts = row[backend]
            skipped = sum(counts["skipped"].values())
            assert row["cases"] == counts[columns[0]] + counts[columns[1]] + skipped + len(counts["failed"])
            assert counts["failed"] == {}
    total = sum(row["cases"] for row in found["rows"])
    assert sum(sum(row["torch"]["skipped"].values()) for row in found["rows"]) <= 0.1 * total
