"""What `check` calls ok compiles and runs in torch and in the interpreter; what it refuses, `compile` refuses.

On a node test of ONNX's own for every operator that it has one for. Its numbers are compared in benchmarks/conformance.
"""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.backend.test.case.test_case import TestCase as NodeTest
from onnx.backend.test.loader import load_model_tests

import optgraph
from optgraph.adapters.onnx_backend import parameters, specialised
from optgraph.api.check import check
from optgraph.base.errors import ModelError, OptgraphError

# Operators without one that is a single node on arrays with elements.
UNTESTED = frozenset(
    (
        *("BlackmanWindow", "Cast", "CastLike", "ConvInteger", "CumSum", "GlobalLpPool", "Gradient", "HammingWindow"),
        *("HannWindow", "MaxRoiPool", "MelWeightMatrix", "Multinomial", "OneHot", "Optional", "QLinearConv"),
        *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "RegexFullMatch"),
        *("ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert"),
        *("SequenceLength", "SequenceMap", "StringConcat", "StringNormalizer", "StringSplit", "CastMap"),
        *("CategoryMapper", "DictVectorizer", "FeatureVectorizer", "Imputer", "LabelEncoder", "LinearClassifier"),
        *("LinearRegressor", "Normalizer", "OneHotEncoder", "SVMClassifier", "SVMRegressor", "Scaler"),
        *("TreeEnsembleClassifier", "TreeEnsembleRegressor", "ZipMap"),
    )
)
OPERATORS = sorted({schema.name for schema in onnx.defs.get_all_schemas()} - UNTESTED)


@cache
def node_tests() -> dict[str, NodeTest]:
    """The first that is a single node on arrays with elements, by operator. Making all takes seconds."""
    found: dict[str, NodeTest] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its test data overflow on purpose
        tests = load_model_tests(kind="node")
    for test in tests:
        if test.model is None or len(test.model.graph.node) != 1 or not test.data_sets:
            continue
        arrays = test.data_sets[0][0]
        if all(isinstance(a, np.ndarray) and a.dtype != object and a.size and info.name for a, info in
               zip(arrays, test.model.graph.input, strict=False)):  # fmt: skip
            found.setdefault(test.model.graph.node[0].op_type, test)
    return found


@pytest.mark.parametrize("operator", OPERATORS)
def test_check_says_what_runs(operator: str) -> None:
    if operator not in node_tests():
        pytest.skip("this version of ONNX has no such test of it")
    test = node_tests()[operator]
    names = [info.name for info in test.model.graph.input]
    arrays = dict(zip(names, test.data_sets[0][0], strict=False))
    model, shapes = specialised(test.model, arrays, parameters(test.model, names))
    try:
        found = check(model, shapes)
    except OptgraphError:
        with pytest.raises(OptgraphError):
            optgraph.compile(model, "torch", input_shape=shapes)
        return
    if not found.ok:
        assert all(u.reason and u.remedy for u in found.unsupported)
        with pytest.raises(OptgraphError):
            optgraph.compile(model, "interpret", input_shape=shapes).plan()
        return
    for backend in ("torch", "interpret"):
        net = optgraph.compile(model, backend, input_shape=shapes)
        net({name: arrays.get(name, np.zeros(1, np.float32)) for name in net.inputs})


def test_an_operator_that_nothing_computes_is_refused_by_both() -> None:
    assert len(node_tests()) > 150 and node_tests().keys() <= set(OPERATORS)
    node = helper.make_node("MaxRoiPool", ["x", "r"], ["y"], name="roi", pooled_shape=[2, 2])
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 3, 8, 8]), ("r", [2, 5]))]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3, 2, 2])
    graph = helper.make_graph([node], "g", infos, [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (unsupported,) = check(model).unsupported
    assert (unsupported.node, unsupported.op) == ("roi", "MaxRoiPool") and "cut the network off" in unsupported.remedy
    for backend in ("torch", "onnxruntime", "interpret"):
        with pytest.raises(ModelError, match=r"node 'roi' \(MaxRoiPool\): nothing here computes it"):
            optgraph.compile(model, backend)
    onnx.checker.check_model(model)
