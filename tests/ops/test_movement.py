"""Shapes, orders and margins: against numpy, in ONNX Runtime, and as ONNX has them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from optgraph import ops
from optgraph.ir.graph import Graph
from optgraph.ir.values import Shape, Value
from optgraph.run.reference import run
from tests.support.definitions import evaluate, rand
from tests.support.onnx_checks import exported, imported, single, types
from tests.support.run_checks import kernels_agree


def test_reference() -> None:
    x = rand(2, 3, 4, 5)
    np.testing.assert_array_equal(evaluate(ops.Transpose(perm=(0, 2, 3, 1)), x)[0], np.moveaxis(x, 1, -1))
    (out,) = evaluate(ops.Pad(pads=(0, 1, 2, -1, 0, 0, 3, 0), value=7.0), x)
    expected = np.pad(x[..., 1:], ((0, 0), (1, 0), (2, 3), (0, 0)), constant_values=7.0)
    np.testing.assert_array_equal(out, expected)
    for mode in ("edge", "reflect", "wrap"):
        (out,) = evaluate(ops.Pad(pads=(0, 1, 3, 0, 0, 2, 3, 4), mode=mode), x)
        np.testing.assert_array_equal(out, np.pad(x, ((0, 0), (1, 2), (3, 3), (0, 4)), mode=mode))
    np.testing.assert_array_equal(evaluate(ops.Identity(), x)[0], x)


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (("N", 3, 4, 5), ("N", -1), (2, 60)),
        (("N", 3, 4, 5), (-1, 60), (2, 60)),
        (("N", 3, 4), ("N", 4, 3), (2, 4, 3)),
        ((4, "N", 3), (-1, "N"), (12, 2)),
        ((6, 4), (3, -1), (3, 8)),
    ],
)
def test_reshape_of_a_symbolic_batch(source: Shape, target: Shape, expected: tuple[int, ...]) -> None:
    graph = Graph()
    x = graph.add_input("x", Value(source))
    graph.outputs = {"y": graph.add(ops.Reshape(shape=target), [x]).output}
    data = rand(*(2 if d == "N" else int(d) for d in source))
    out = run(graph, {"x": data}, torch.float64)["y"].numpy()
    np.testing.assert_array_equal(out, data.reshape(expected))


def test_reshape_without_a_graph_takes_the_leading_batch() -> None:
    (out,) = evaluate(ops.Reshape(shape=("N", -1)), rand(2, 3, 4))
    assert out.shape == (2, 12)


# What each becomes in ONNX.
EXPORTS: dict[str, tuple[list[str], Callable[[], Graph]]] = {
    "reshape_copied_batch": (["Reshape"], lambda: single(ops.Reshape(shape=("N", -1)))),
    "reshape_left_over_batch": (["Reshape"], lambda: single(ops.Reshape(shape=(-1, 36, 8)))),
    "reshape_moved_batch": (["Reshape"], lambda: single(ops.Reshape(shape=(2, "N", 4)), shape=("N", 8))),
    "reshape_static": (["Reshape"], lambda: single(ops.Reshape(shape=(3, -1)), shape=(6, 5))),
    "transpose": (["Transpose"], lambda: single(ops.Transpose(perm=(0, 2, 3, 1)))),
    "pad": (["Pad"], lambda: single(ops.Pad(pads=(0, 0, 1, -1, 0, 2, 0, 3), value=0.5))),
    "pad_edge": (["Pad"], lambda: single(ops.Pad(pads=(0, 0, 1, 0, 0, 2, 0, 3), mode="edge"))),
    "pad_reflect": (["Pad"], lambda: single(ops.Pad(pads=(0, 0, 1, 0, 0, 2, 0, 3), mode="reflect"))),
    "identity": (["Identity"], lambda: single(ops.Identity())),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_export(name: str) -> None:
    expected, build = EXPORTS[name]
    assert types(exported(build())) == expected


CASES = {
    "unsqueeze": [("Unsqueeze", "x ax0", "u", {}), ("Squeeze", "u ax0", "y", {})],
    "transpose_default": [("Transpose", "x", "t", {}), ("Transpose", "t", "y", {})],
    "pad_axes": [("Pad", "x pads", "y", {})],
    "pad_reflect": [("Pad", "x pads", "y", {"mode": "reflect"})],
    "dropout_mask": [("Dropout", "x", "d mask", {}), ("Relu", "d", "y", {})],
    "dropout": [("Dropout", "x", "d", {}), ("Relu", "d", "y", {})],
    "identity_of_weight": [("Identity", "w", "w2", {}), ("Conv", "x w2", "y", {})],
}


@pytest.mark.parametrize("name", CASES)
def test_import(name: str) -> None:
    imported(CASES[name])


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect"])
@pytest.mark.parametrize("rank, axis", [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)])
def test_the_kernels_pad_each_axis_of_less_than_an_image(rank: int, axis: int, mode: str) -> None:
    pads = [0] * 2 * rank
    pads[axis], pads[axis + rank] = 1, 2
    kernels_agree(single(ops.Pad(pads=tuple(pads), mode=mode, value=0.5), shape=(4, 3, 5)[:rank]))
