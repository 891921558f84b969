"""What an output ends with."""

from __future__ import annotations

from itertools import pairwise

import onnx
import pytest
from onnx import helper

from optgraph.compare.tails import Tail, tail


def graph(*nodes: tuple) -> onnx.GraphProto:
    """Operators in a row, from x to y, each a name and its attributes."""
    names = ["x", *(f"v{i}" for i in range(1, len(nodes))), "y"]
    ends = zip(nodes, pairwise(names), strict=True)
    made = [helper.make_node(op, [x], [y], **attributes) for (op, attributes), (x, y) in ends]
    return helper.make_graph(made, "g", [], [])


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([("Conv", {}), ("Softmax", {"axis": 1})], Tail("v1", "Softmax", 1)),
        ([("Conv", {}), ("Softmax", {})], Tail("v1", "Softmax", -1)),
        ([("Conv", {}), ("Softmax", {"axis": 1}), ("Reshape", {})], Tail("v1", "Softmax")),
        ([("Conv", {}), ("Sigmoid", {}), ("Transpose", {}), ("Flatten", {})], Tail("v1", "Sigmoid")),
        ([("Conv", {}), ("ArgMax", {"axis": 1})], Tail("v1", "ArgMax")),
        ([("Conv", {}), ("Reshape", {})], Tail("y")),
        ([("Conv", {}), ("Sigmoid", {}), ("Mul", {})], Tail("y")),
        ([("Softmax", {"axis": 1})], Tail("x", "Softmax", 1)),
    ],
)
def test_tail(nodes: list, expected: Tail) -> None:
    assert tail(graph(*nodes), "y") == expected
    assert expected.bounded == (expected.kind == "Sigmoid")
