"""Elements repeated and dealt out: against numpy, in ONNX Runtime, and as ONNX has it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from optgraph import ops
from optgraph.base.errors import ModelError
from optgraph.ir.graph import Graph
from optgraph.ir.op import Op
from optgraph.ir.values import Value
from tests.support.definitions import evaluate, rand
from tests.support.onnx_checks import exported, imported, single, types, weights


def test_reference() -> None:
    x = rand(2, 12, 4, 6)
    np.testing.assert_array_equal(evaluate(ops.Tile(repeats=(1, 2, 1, 3)), x)[0], np.tile(x, (1, 2, 1, 3)))
    np.testing.assert_array_equal(evaluate(ops.Expand(shape=(4, 6)), x[0, 0, :, :1])[0], x[0, 0, :, :1].repeat(6, 1))
    (deep,) = evaluate(ops.SpaceToDepth(block=2), x)
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        np.testing.assert_array_equal(deep[:, 12 * (2 * i + j) :][:, :12], x[:, :, i::2, j::2])
    np.testing.assert_array_equal(evaluate(ops.DepthToSpace(block=2), deep)[0], x)
    (wide,) = evaluate(ops.DepthToSpace(block=2, mode="CRD"), x)
    np.testing.assert_array_equal(wide[:, 1, 1::2, ::2], x[:, 4 + 2])


# What each becomes in ONNX.
EXPORTS: dict[str, tuple[list[str], Callable[[], Graph]]] = {
    "expand": (["Expand"], lambda: single(ops.Expand(shape=("N", 4, 3, 8)), shape=("N", 4, 1, 8))),
    "expand_batch": (["Identity", "Shape", "ScatterElements", "Expand"], lambda: expanded_constant()),
    "tile": (["Tile"], lambda: single(ops.Tile(repeats=(1, 1, 2, 3)))),
    "depth_to_space": (["DepthToSpace"], lambda: single(ops.DepthToSpace(block=2))),
    "depth_to_space_by_column": (["DepthToSpace"], lambda: single(ops.DepthToSpace(block=2, mode="CRD"))),
    "space_to_depth": (["SpaceToDepth"], lambda: single(ops.SpaceToDepth(block=2), shape=("N", 3, 4, 6))),
}


def expanded_constant() -> Graph:
    """A class token or a grid of coordinates, once for each image."""
    graph = single(ops.Identity())
    token = graph.add_constant(weights(2, 1, 5), "token")
    expand = ops.Expand(shape=("N", 1, 3, 5))
    graph.outputs = {"y": graph.add(expand, [token, "x"], name="expand").output}
    return graph


@pytest.mark.parametrize("name", EXPORTS)
def test_export(name: str) -> None:
    expected, build = EXPORTS[name]
    assert types(exported(build())) == expected


CASES = {
    "tile": [("Tile", "x repeats", "y", {})],
    "depth_to_space": [("DepthToSpace", "x", "y", {"blocksize": 2})],
    "depth_to_space_crd": [("DepthToSpace", "x", "y", {"blocksize": 2, "mode": "CRD"})],
    "space_to_depth": [("DepthToSpace", "x", "d", {"blocksize": 2}), ("SpaceToDepth", "d", "y", {"blocksize": 2})],
    "expand": [
        *[("GlobalAveragePool", "x", "p", {}), ("Shape", "x", "dims", {})],
        *[("Expand", "p dims", "e", {}), ("Add", "e x", "y", {})],
    ],
    "expand_batch": [("Shape", "x", "dims", {}), ("Expand", "c dims", "e", {}), ("Add", "e x", "y", {})],
    "expand_same": [("Shape", "x", "dims", {}), ("Expand", "x dims", "y", {})],
}


@pytest.mark.parametrize("name", CASES)
def test_import(name: str) -> None:
    imported(CASES[name])


@pytest.mark.parametrize(
    "op, reason",
    [
        (ops.DepthToSpace(block=3), "do not divide into blocks"),
        (ops.SpaceToDepth(block=4), "do not divide into blocks"),
        (ops.Tile(repeats=(2, 1)), "repeats"),
        (ops.Expand(shape=("N", 4, 3, 5)), "do not broadcast"),
    ],
)
def test_shapes_that_do_not_fit(op: Op, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        op.infer([Value(("N", 4, 9, 6))])
