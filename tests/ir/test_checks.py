"""Weights that are not finite are refused, by name."""

from __future__ import annotations

import numpy as np
import pytest

from optgraph.base.errors import ModelError
from optgraph.ir.checks import check_finite
from optgraph.ir.graph import Graph
from optgraph.ir.values import Value
from optgraph.ops import Affine, Binary, MatMul


def weighted(**weights: np.ndarray) -> Graph:
    """x·w with a scale and a shift after it."""
    graph = Graph()
    x = graph.add_input("x", Value(("N", 4)))
    shapes = {"w": (4, 3), "scale": (3,), "shift": (3,)}
    arrays = {name: np.ones(shape, np.float32) for name, shape in shapes.items()} | weights
    names = {name: graph.add_constant(array, name) for name, array in arrays.items()}
    y = graph.add(MatMul(), (x, names["w"]), name="fc").output
    graph.outputs = {"y": graph.add(Affine(), (y, names["scale"], names["shift"]), name="norm").output}
    return graph


def test_weights_that_are_finite() -> None:
    check_finite(weighted(w=np.full((4, 3), np.finfo(np.float32).max)))
    graph = weighted()
    graph.add_constant(np.array(-np.inf, np.float32), "bound")
    graph.add_constant(np.array([2**62, -1]), "shape")
    check_finite(graph)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_weight_that_is_not_finite_is_named(bad: float, dtype: type) -> None:
    shift = np.array([0, bad, bad], dtype)
    with pytest.raises(ModelError, match=r"weight 'shift', read by node 'norm' \(Affine\), has 2 of 3 values"):
        check_finite(weighted(shift=shift))


@pytest.mark.parametrize("fn", ["add", "mul"])
def test_a_mask_of_infinities_is_added_and_never_multiplied(fn: str) -> None:
    graph = weighted()
    mask = graph.add_constant(np.array([0, -np.inf, -np.inf], np.float32), "mask")
    graph.outputs = {"y": graph.add(Binary(fn=fn), (graph.outputs["y"], mask), name="masked").output}
    if fn == "add":
        check_finite(graph)
        return
    with pytest.raises(ModelError, match=r"weight 'mask', read by node 'masked' \(Binary\), has 2 of 3 values"):
        check_finite(graph)


def test_a_single_nan_is_no_bound() -> None:
    graph = weighted()
    graph.add_constant(np.array(np.nan, np.float32), "bound")
    with pytest.raises(ModelError, match="weight 'bound' has 1 of 1"):
        check_finite(graph)
