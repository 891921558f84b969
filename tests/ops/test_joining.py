"""Tensors put together and taken apart: against numpy, in ONNX Runtime, and as ONNX has it."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

import optgraph
from optgraph import ops
from optgraph.api.graph_json import graph_from_json, graph_to_json
from optgraph.base.errors import ModelError
from optgraph.ir.graph import Graph
from optgraph.onnx.read import read
from tests.support.definitions import evaluate, rand
from tests.support.onnx_checks import agree, exported, imported, ints, model, single, types, weights


def test_reference_of_concat_and_split() -> None:
    x = rand(2, 6, 3)
    pieces = evaluate(ops.Split(axis=1, sizes=(1, 3, 2)), x)
    assert [p.shape for p in pieces] == [(2, 1, 3), (2, 3, 3), (2, 2, 3)]
    np.testing.assert_array_equal(pieces[1], x[:, 1:4])
    (joined,) = evaluate(ops.Concat(axis=1, in_place=(True, False, True)), *pieces)
    np.testing.assert_array_equal(joined, x)


INT_MAX, INT_MIN = 2**63 - 1, -(2**63)


@pytest.mark.parametrize(
    ("start", "end", "step", "expected"),
    [
        (1, 4, 1, slice(1, 4)),
        (-3, INT_MAX, 1, slice(4, 7)),
        (0, -1, 2, slice(0, 6, 2)),
        (-100, 100, 3, slice(None, None, 3)),
        (-1, INT_MIN, -1, slice(None, None, -1)),
        (5, 1, -2, slice(5, 1, -2)),
    ],
)
def test_reference_of_slice(start: int, end: int, step: int, expected: slice) -> None:
    x = rand(2, 7, 4)
    (out,) = evaluate(ops.Slice(starts=(start, 1), ends=(end, 3), axes=(1, 2), steps=(step, 1)), x)
    np.testing.assert_array_equal(out, x[:, expected, 1:3])


def test_reference_of_gather() -> None:
    x = rand(2, 7, 4)
    np.testing.assert_array_equal(evaluate(ops.Gather(axis=1, indices=(6, 0, 6)), x)[0], x[:, [6, 0, 6]])


# What each becomes in ONNX.
EXPORTS: dict[str, tuple[list[str], Callable[[], Graph]]] = {
    "concat": (["Concat"], lambda: single(ops.Concat(axis=2), weights(1, 4, 3, 8), shape=(1, 4, 9, 8))),
    "split": (["Split"], lambda: single(ops.Split(axis=1, sizes=(1, 3)))),
    "gather": (["Gather"], lambda: single(ops.Gather(axis=2, indices=(8, 1, 1)))),
    "slice": (
        ["Slice"],
        lambda: single(ops.Slice(starts=(-1, 2), ends=(-(2**63), 100), axes=(2, 3), steps=(-2, 1))),
    ),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_export(name: str) -> None:
    expected, build = EXPORTS[name]
    assert types(exported(build())) == expected


CASES = {
    "split_equal": [("Split", "x", "p q", {"axis": 1}), ("Sub", "p q", "y", {})],
    "split_sizes": [("Split", "x sizes", "p q", {"axis": 1}), ("Concat", "q p", "y", {"axis": 1})],
    "gather": [("Gather", "x sizes", "y", {"axis": 1})],
    "gather_one": [("Gather", "x minus_i", "y", {"axis": 2})],
    "gather_table": [("Gather", "x square", "y", {"axis": 3})],
    "slice": [("Slice", "x starts ends axes steps", "y", {})],
}


@pytest.mark.parametrize("name", CASES)
def test_import(name: str) -> None:
    imported(CASES[name])


@pytest.mark.parametrize(
    ("start", "end", "step"),
    [
        (0, INT_MAX, 1),
        (-1, INT_MIN, -1),
        (-1, -INT_MAX, -2),
        (INT_MAX, INT_MIN, -3),
        (3, 0, -1),
        (INT_MIN, INT_MIN, -1),
        (-100, 3, 2),
        (2, INT_MAX, INT_MAX),
        (5, -100, -INT_MAX),
        (-3, -1, 1),
    ],
)
def test_ends_of_slices_are_brought_within_the_axis(start: int, end: int, step: int) -> None:
    """As ONNX Runtime has them, on an axis of 9 and on all of an open one, and small enough for an artifact."""
    fields = {"starts": (0, start), "ends": (INT_MAX, end), "axes": (0, 2), "steps": (1, step)}
    inits = {name: ints(*numbers) for name, numbers in fields.items()}
    # A slice of nothing has no norm to compare, so one takes part that is never empty.
    nodes = [("Slice", "x starts ends axes steps", "p", {}), ("Concat", "p x", "y", {"axis": 2})]
    proto = model(nodes, inits)
    assert agree(proto) == {"Slice": 1, "Concat": 1}
    graph = read(proto)
    (op,) = (node.op for node in graph.nodes() if isinstance(node.op, ops.Slice))
    assert op.axes == (2,) and max(map(abs, op.starts + op.ends + op.steps)) <= 10
    loaded = graph_from_json(json.loads(json.dumps(graph_to_json(graph))), graph.constants)
    assert loaded.shape("p") == graph.shape("p")


def test_a_slice_of_everything_is_nothing() -> None:
    inits = {"starts": ints(0), "ends": ints(INT_MAX), "axes": ints(0)}
    assert agree(model([("Slice", "x starts ends axes", "p", {}), ("Relu", "p", "y", {})], inits)) == {
        "Identity": 1,
        "Activation": 1,
    }


def test_part_of_the_open_batch_has_no_size() -> None:
    inits = {"starts": ints(1), "ends": ints(INT_MAX), "axes": ints(0)}
    with pytest.raises(ModelError, match="is not known"):
        optgraph.compile(model([("Slice", "x starts ends axes", "y", {})], inits), "torch").plan()


def test_indices_that_are_computed_or_beyond_the_axis() -> None:
    proto = model([("Gather", "x i", "y", {"axis": 1})], {"i": ints(0, 4)})
    with pytest.raises(ModelError, match="beyond the 4 positions of axis 1"):
        read(proto)
    computed = [("ArgMax", "x", "i", {"axis": 2, "keepdims": 0}), ("Gather", "w i", "y", {})]
    assert "Gather" not in [type(n.op).__name__ for n in read(model(computed, {"w": weights(9, 3)})).nodes()]
