"""Fully connected layers: against numpy, in ONNX Runtime, and as ONNX has them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from optgraph import ops
from optgraph.ir.graph import Graph
from optgraph.ir.values import RELU
from tests.support.definitions import evaluate, rand
from tests.support.onnx_checks import exported, imported, single, types, weights


def test_reference() -> None:
    x, w, b = rand(3, 4), rand(5, 4), rand(5)
    np.testing.assert_allclose(evaluate(ops.Gemm(act=RELU), x, w, b)[0], np.maximum(x @ w.T + b, 0), atol=1e-12)
    np.testing.assert_allclose(evaluate(ops.Gemm(), x, w)[0], x @ w.T, atol=1e-12)


# What each becomes in ONNX.
EXPORTS: dict[str, tuple[list[str], Callable[[], Graph]]] = {
    "gemm": (["Gemm", "Relu"], lambda: single(ops.Gemm(act=RELU), weights(5, 4), weights(5), shape=("N", 4))),
    "gemm_without_bias": (["Gemm"], lambda: single(ops.Gemm(), weights(5, 4), shape=("N", 4))),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_export(name: str) -> None:
    expected, build = EXPORTS[name]
    assert types(exported(build())) == expected


CASES = {
    "flatten_gemm": [
        ("GlobalAveragePool", "x", "p", {}),
        ("Flatten", "p", "f", {}),
        ("Gemm", "f fc fb", "y", {"transB": 1}),
    ],
    "gemm_scaled": [
        ("GlobalAveragePool", "x", "p", {}),
        ("Flatten", "p", "f", {}),
        ("Gemm", "f fct fb", "y", {"alpha": 0.5, "beta": 2.0}),
    ],
    "gemm_computed_bias": [
        ("GlobalAveragePool", "x", "p", {}),
        ("Flatten", "p", "f", {}),
        ("Add", "fb fb", "twice", {}),
        ("Gemm", "f fc twice", "y", {"transB": 1}),
    ],
    "squeeze_matmul": [
        ("GlobalAveragePool", "x", "p", {}),
        ("Squeeze", "p ax23", "q", {}),
        ("MatMul", "q fct", "y", {}),
    ],
}


@pytest.mark.parametrize("name", CASES)
def test_import(name: str) -> None:
    imported(CASES[name])
