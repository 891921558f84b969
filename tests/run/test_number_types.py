"""Doubles and bfloat16, on every backend: what is computed in which type, and what comes in and goes out."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import optgraph
from optgraph.onnx.write import to_onnx

BACKENDS = ("torch", "onnxruntime", "interpret")
BFLOAT16 = helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)
RNG = np.random.default_rng(0)

Nodes = list[tuple[str, str, str, dict[str, Any]]]


def model_of(nodes: Nodes, kind: int, weights: dict[str, np.ndarray], shape: list[Any]) -> onnx.ModelProto:
    """x -> y, both of the ONNX type `kind`."""
    graph = helper.make_graph(
        [helper.make_node(op, i.split(), o.split(), **attrs) for op, i, o, attrs in nodes],
        "numbers",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_doubles_beyond_float32(backend: str) -> None:
    weights = {"c": np.array([1e300, -1e-300])}
    net = optgraph.compile(model_of([("Add", "x c", "y", {})], TensorProto.DOUBLE, weights, ["N", 2]), backend)
    x = np.array([[1e300, -1e-300]])
    np.testing.assert_array_equal(net(x), x + weights["c"])


# One of doubles that fuses, joins in place and has views; one that leaves doubles and comes back.
DOUBLES: dict[str, Nodes] = {
    "joined": [
        ("Conv", "x w", "a", {"pads": [1, 1, 1, 1]}),
        ("Relu", "a", "b", {}),
        ("MaxPool", "x", "c", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
        ("Concat", "b c", "d", {"axis": 1}),
        ("Transpose", "d", "y", {"perm": [0, 2, 3, 1]}),
    ],
    "mixed": [
        ("Cast", "x", "f", {"to": TensorProto.FLOAT}),
        ("Conv", "f w32", "a", {"pads": [1, 1, 1, 1]}),
        ("Cast", "a", "d", {"to": TensorProto.DOUBLE}),
        ("Conv", "d w", "b", {"strides": [2, 2]}),
        ("GlobalAveragePool", "b", "y", {}),
    ],
}


@pytest.mark.parametrize("name", DOUBLES)
def test_networks_of_doubles(name: str) -> None:
    w = RNG.normal(size=(4, 4, 3, 3))
    weights = {"w": w} | ({"w32": w.astype(np.float32)} if name == "mixed" else {})
    model = model_of(DOUBLES[name], TensorProto.DOUBLE, weights, ["N", 4, 7, 6])
    x = RNG.normal(size=(2, 4, 7, 6))
    results = {backend: optgraph.compile(model, backend)(x) for backend in BACKENDS}
    assert {result.dtype for result in results.values()} == {np.dtype(np.float64)}
    norm = np.linalg.norm(results["torch"])
    exact = name == "joined"
    assert np.linalg.norm(results["interpret"] - results["torch"]) <= (1e-14 if exact else 1e-6) * norm
    assert 0 < np.linalg.norm(results["onnxruntime"] - results["torch"]) <= 1e-6 * norm  # it has no Conv of doubles
    plan = optgraph.compile(model, "interpret").plan()
    assert {fallback.reason for fallback in plan.fallbacks} == {"it computes doubles"}
    assert (len(plan.calls) == len(plan.fallbacks)) == exact


@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_in_and_out(backend: str) -> None:
    nodes: Nodes = [
        ("Conv", "x w b", "a", {"pads": [1, 1, 1, 1]}),
        ("Clip", "a low high", "c", {}),
        ("AveragePool", "c", "y", {"kernel_shape": [2, 2]}),
    ]
    wide = {"w": RNG.normal(size=(3, 4, 3, 3)), "b": RNG.normal(size=3), "low": np.array(-0.5), "high": np.array(2.0)}
    weights = {name: array.astype(BFLOAT16) for name, array in wide.items()}
    model = model_of(nodes, TensorProto.BFLOAT16, weights, ["N", 4, 7, 6])
    x = RNG.normal(size=(2, 4, 7, 6)).astype(BFLOAT16)
    result = optgraph.compile(model, backend)(x)
    assert result.dtype == BFLOAT16
    exact = {name: array.astype(np.float32) for name, array in weights.items()}
    wanted = optgraph.compile(model_of(nodes, TensorProto.FLOAT, exact, ["N", 4, 7, 6]), "torch")(x.astype(np.float32))
    assert np.linalg.norm(result.astype(np.float32) - wanted) <= 4e-3 * np.linalg.norm(wanted)


def test_a_file_of_bfloat16_is_of_an_opset_that_has_it() -> None:
    weights = {"w": RNG.normal(size=(3, 4, 3, 3)).astype(BFLOAT16)}
    model = model_of([("Conv", "x w", "y", {})], TensorProto.BFLOAT16, weights, ["N", 4, 7, 6])
    written = to_onnx(optgraph.simplify(optgraph.read(model)))
    onnx.checker.check_model(written, full_check=True)
    assert written.opset_import[0].version == 22


INTEGERS: dict[str, tuple[str, list[np.ndarray], dict[str, Any]]] = {
    "max_pool_with_padding": ("MaxPool", [], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    "matmul": ("MatMul", [np.arange(12).reshape(6, 2)], {}),
    "nearest": ("Resize", [np.zeros(0, np.float32), np.array([1, 1, 2, 2], np.float32)], {"mode": "nearest"}),
    "pad": ("Pad", [np.array([0, 0, 1, 2, 0, 0, 2, 1])], {"mode": "edge"}),
}


# What ONNX has each of them for.
INTEGER_TYPES = {"max_pool_with_padding": "int8 uint8", "matmul": "int32 uint32 int64"}


@pytest.mark.parametrize(
    ("name", "dtype"), [(n, d) for n in INTEGERS for d in INTEGER_TYPES.get(n, "int8 uint8 int32 int64").split()]
)
def test_integers_stay_integers(name: str, dtype: str) -> None:
    op, operands, attrs = INTEGERS[name]
    weights = {f"i{i}": a.astype(dtype) if op == "MatMul" else a for i, a in enumerate(operands)}
    x = RNG.integers(0, 100, (2, 4, 7, 6)).astype(dtype)
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    model = model_of([(op, " ".join(["x", *weights]), "y", attrs)], kind, weights, ["N", 4, 7, 6])
    if op == "MatMul":
        wanted = x @ weights["i0"]
    elif op == "MaxPool":
        padded = np.pad(x.astype(np.int64), ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-(2**40))
        wanted = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3)).max((-1, -2))
    elif op == "Pad":
        wanted = np.pad(x, ((0, 0), (0, 0), (1, 2), (2, 1)), mode="edge")
    else:
        wanted = x.repeat(2, 2).repeat(2, 3)
    for backend in ("torch", "interpret"):
        result = optgraph.compile(model, backend)(x)
        assert result.dtype == x.dtype
        np.testing.assert_array_equal(result, wanted)
