"""Operators as opsets had them that ONNX Runtime no longer reads, each against its form of today."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from optgraph.onnx.read import read
from optgraph.run import reference
from tests.support.onnx_checks import ints, model, weights

Nodes = list[tuple[str, str, str, dict[str, Any]]]
AROUND = [0, 0, 1, 0, 0, 0, 0, 2]

# name -> opset, its nodes, those of opset 13
OLD: dict[str, tuple[int, Nodes, Nodes]] = {
    "Cast by name": (
        5,
        [("Cast", "x", "t", {"to": "INT32"}), ("Cast", "t", "y", {"to": "FLOAT"})],
        [("Cast", "x", "t", {"to": 6}), ("Cast", "t", "y", {"to": 1})],
    ),
    "Pad's paddings": (
        1,
        [("Pad", "x", "y", {"paddings": AROUND, "value": 0.5})],
        [("Pad", "x around half", "y", {})],
    ),
}


@pytest.mark.parametrize("name", OLD)
def test_it_is_what_it_became(name: str) -> None:
    opset, old, new = OLD[name]
    constants = {"around": ints(*AROUND), "half": np.array(0.5, np.float32)}
    x = 4 * weights(2, 4, 9, 7)
    (found,) = reference.run(read(model(old, opset=opset)), {"x": x}).values()
    (wanted,) = reference.run(read(model(new, constants, opset=13)), {"x": x}).values()
    np.testing.assert_array_equal(found, wanted)
    assert found.any()
