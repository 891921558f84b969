"""Reductions over whole axes: against numpy, in ONNX Runtime, and as ONNX has them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from optgraph import ops
from optgraph.ir.graph import Graph
from optgraph.ir.values import RELU
from tests.support.definitions import evaluate, rand
from tests.support.onnx_checks import add_opaque, exported, imported, single, types

# ---- reference, against the definition


@pytest.mark.parametrize(("mode", "function"), [("max", np.max), ("average", np.mean)])
def test_global_pool_reference(mode: str, function: Callable[..., np.ndarray]) -> None:
    x = rand(2, 3, 5, 6)
    (out,) = evaluate(ops.GlobalPool(mode=mode, act=RELU), x)
    np.testing.assert_allclose(out, np.maximum(function(x, axis=(2, 3), keepdims=True), 0), atol=1e-12)


@pytest.mark.parametrize("mode", ["mean", "max", "min", "sum"])
@pytest.mark.parametrize(("axes", "keepdims"), [((1,), True), ((2, 3), False), ((), True)])
def test_reduce_reference(mode: str, axes: tuple[int, ...], keepdims: bool) -> None:
    x = rand(2, 3, 4, 5)
    (out,) = evaluate(ops.Reduce(mode=mode, axes=axes, keepdims=keepdims), x)
    np.testing.assert_allclose(out, getattr(np, mode)(x, axis=axes, keepdims=keepdims), atol=1e-12)


# ---- ONNX out, in ONNX Runtime against the reference


@pytest.mark.parametrize("mode", ["max", "average"])
def test_global_pool_export(mode: str) -> None:
    model = exported(single(ops.GlobalPool(mode=mode, act=RELU)))
    assert types(model) == [f"Global{mode.capitalize()}Pool", "Relu"]


# What each becomes in ONNX.
EXPORTS: dict[str, tuple[list[str], Callable[[], Graph]]] = {
    "reduce_all_axes": (["ReduceMax"], lambda: single(ops.Reduce(mode="max", axes=(0, 1, 2, 3), keepdims=True))),
    "reduce_no_axes": (["Identity"], lambda: single(ops.Reduce(mode="sum", axes=(), keepdims=True))),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_export(name: str) -> None:
    expected, build = EXPORTS[name]
    assert types(exported(build())) == expected


@pytest.mark.parametrize("mode", ["mean", "max", "min", "sum"])
@pytest.mark.parametrize("keepdims", [True, False])
@pytest.mark.parametrize("opset", [17, 18])
def test_reduce_export(mode: str, keepdims: bool, opset: int) -> None:
    """`axes` became an input at opset 13 for ReduceSum and at 18 for the others."""
    graph = single(ops.Reduce(mode=mode, axes=(1, 3), keepdims=keepdims))
    graph.opset = opset
    pin = "Mish" if opset == 18 else "Elu"  # of the opset that brought it
    add_opaque(graph, pin)
    model = exported(graph)
    assert model.opset_import[0].version == opset
    assert types(model) == [f"Reduce{mode.capitalize()}", pin]


# ---- ONNX in, against ONNX Runtime


CASES = {
    "global_average": [("GlobalAveragePool", "x", "y", {})],
    "global_max": [("GlobalMaxPool", "x", "y", {})],
    "reduce_mean": [("ReduceMean", "x", "y", {"axes": [-1, -2], "keepdims": 0})],
    "reduce_max": [("ReduceMax", "x", "y", {"axes": [2, 3], "keepdims": 1})],
}


@pytest.mark.parametrize("name", CASES)
def test_import(name: str) -> None:
    imported(CASES[name], opset=13 if name == "reduce_mean" or name == "reduce_max" else 17)
