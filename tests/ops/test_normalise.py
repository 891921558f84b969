"""Normalisation: against numpy, in ONNX Runtime, and as ONNX has it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from optgraph import ops
from optgraph.ir.graph import Graph
from optgraph.onnx.read import read
from tests.support.definitions import evaluate, per_channel, rand
from tests.support.onnx_checks import agree, exported, imported, model, single, types, weights


def test_batch_norm_reference() -> None:
    x, scale, b, mean, var = rand(2, 3, 4, 5), rand(3), rand(3, seed=1), rand(3, seed=2), rand(3, seed=3) ** 2
    (out,) = evaluate(ops.BatchNorm(epsilon=0.01), x, scale, b, mean, var)
    expected = (x - per_channel(mean)) / np.sqrt(per_channel(var) + 0.01) * per_channel(scale) + per_channel(b)
    np.testing.assert_allclose(out, expected, rtol=1e-10)


@pytest.mark.parametrize("size", [1, 3, 4, 9])
def test_lrn_reference(size: int) -> None:
    x = rand(2, 6, 3, 3)
    (out,) = evaluate(ops.LRN(size=size, alpha=0.3, beta=0.6, bias=1.5), x)
    for c in range(6):
        near = x[:, max(0, c - (size - 1) // 2) : c + math.ceil((size - 1) / 2) + 1]
        expected = x[:, c] / (1.5 + 0.3 / size * (near**2).sum(1)) ** 0.6
        np.testing.assert_allclose(out[:, c], expected, rtol=1e-12)


def test_softmax_reference() -> None:
    x = rand(2, 3, 4, 5)
    exp = np.exp(x)
    np.testing.assert_allclose(evaluate(ops.Softmax(axis=1), x)[0], exp / exp.sum(1, keepdims=True), rtol=1e-12)


# What each becomes in ONNX.
EXPORTS: dict[str, tuple[list[str], Callable[[], Graph]]] = {
    "batch_norm": (
        ["BatchNormalization"],
        lambda: single(ops.BatchNorm(epsilon=0.01), weights(4), weights(4) + 1, weights(4) - 1, weights(4) ** 2),
    ),
    "softmax": (["Softmax"], lambda: single(ops.Softmax(axis=1))),
    "hardmax": (["Hardmax"], lambda: single(ops.Hardmax(axis=2))),
    "lrn": (["LRN"], lambda: single(ops.LRN(size=3, alpha=0.3, beta=0.6, bias=1.5))),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_export(name: str) -> None:
    expected, build = EXPORTS[name]
    assert types(exported(build())) == expected


CASES = {
    "batchnorm": [("BatchNormalization", "x s c4 m v", "y", {"epsilon": 1e-3})],
    "hardmax": [("Hardmax", "x", "y", {"axis": 1})],
    "softmax_default_axis": [("Softmax", "x", "y", {})],
    "lrn": [("LRN", "x", "y", {"size": 3, "alpha": 0.5})],
}


@pytest.mark.parametrize("name", CASES)
def test_import(name: str) -> None:
    imported(CASES[name])


def test_softmax_before_opset_13_ran_over_all_later_axes() -> None:
    assert agree(model([("Softmax", "x", "y", {"axis": 1})], opset=11)) == {"Reshape": 2, "Softmax": 1}
    assert agree(model([("Softmax", "x", "y", {"axis": 3})], opset=11)) == {"Softmax": 1}


def test_hardmax_reference() -> None:
    x = np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 0.0]])
    assert evaluate(ops.Hardmax(axis=1), x)[0].tolist() == [[0, 1, 0], [1, 0, 0]]  # the first of equal ones


def test_hardmax_before_opset_13_ran_over_all_later_axes() -> None:
    for axis in (0, 1, 2):  # 0: over the whole batch
        proto = model([("Hardmax", "x", "y", {"axis": axis})], opset=11)
        assert agree(proto) == {"Reshape": 2, "Hardmax": 1}
        assert types(exported(read(proto))) == ["Reshape", "Hardmax", "Reshape"]
