"""Reductions and softmax over any axes of any rank: through their kernels, nothing falling back."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from optgraph import ops
from optgraph.ir.graph import Graph
from optgraph.ir.op import Op
from optgraph.ir.values import Shape, Value
from tests.support.definitions import evaluate, rand
from tests.support.onnx_checks import exported, imported, single, types
from tests.support.run_checks import kernels_agree

# numpy, in what a masked element makes of the zero that it reads
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow|divide by zero)")

MODES = ("mean", "sum", "max", "min", "prod", "l1", "l2", "sum_square", "log_sum")
SHAPES: list[Shape] = [("N", 5), ("N", 3, 4), ("N", 4, 3, 5), ("N", 1, 3, 5), ("N", 2, 3, 2, 4)]


def alone(op: Op, shape: Shape) -> Graph:
    graph = Graph()
    graph.outputs = {"y": graph.add(op, [graph.add_input("x", Value(shape))]).output}
    return graph


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_set_of_axes(shape: Shape) -> None:
    sets = [axes for count in range(1, len(shape) + 1) for axes in combinations(range(len(shape)), count)]
    sets = sets if len(shape) < 5 else sets[::3]  # of 31
    for i, axes in enumerate(sets):
        mode = MODES[i % len(MODES)]
        kernels_agree(alone(ops.Reduce(mode=mode, axes=axes, keepdims=i % 2 == 0), shape), 3, positive=True)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode(mode: str) -> None:
    for axes in ((1,), (1, 2), (0, 2)):
        graph = alone(ops.Reduce(mode=mode, axes=axes, keepdims=False), ("N", 3, 4, 2))
        kernels_agree(graph, 2, "fp16", positive=mode in ("log_sum", "prod"))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("log", [False, True])
def test_softmax_over_every_axis(shape: Shape, log: bool) -> None:
    for axis in range(len(shape)):
        if log and shape[axis] == 1:
            continue  # all zeros
        kernels_agree(alone(ops.Softmax(axis=axis, log=log), shape), 3)


def test_half_precision_does_not_overflow_between_two_launches() -> None:
    """The squares of one axis are beyond float16; the root of their sum is not."""
    graph = Graph()
    x = graph.add_input("x", Value((2, 4, 3, 5)))
    large = graph.add_constant(np.array(300.0, np.float32))
    scaled = graph.add(ops.Binary(fn="mul"), [x, large]).output
    graph.outputs = {"y": graph.add(ops.Reduce(mode="l2", axes=(1, 2), keepdims=True), [scaled]).output}
    assert kernels_agree(graph, 2, "fp16").launches_by_kernel() == {"elementwise": 1, "reduce": 2}


@pytest.mark.parametrize("mode", MODES[4:])
def test_reduce_reference_and_export(mode: str) -> None:
    x = np.abs(rand(2, 3, 4, 5)) + 0.1
    formulas = {
        "prod": lambda x, **k: x.prod(**k),
        "l1": lambda x, **k: np.abs(x).sum(**k),
        "l2": lambda x, **k: np.sqrt((x * x).sum(**k)),
        "sum_square": lambda x, **k: (x * x).sum(**k),
        "log_sum": lambda x, **k: np.log(x.sum(**k)),
    }
    (out,) = evaluate(ops.Reduce(mode=mode, axes=(1, 3), keepdims=True), x)
    np.testing.assert_allclose(out, formulas[mode](x, axis=(1, 3), keepdims=True), rtol=1e-12)
    if mode != "log_sum":  # whose random inputs have negative sums
        spelled = {"l1": "L1", "l2": "L2", "sum_square": "SumSquare", "prod": "Prod"}[mode]
        assert types(exported(single(ops.Reduce(mode=mode, axes=(1, 3), keepdims=False)))) == [f"Reduce{spelled}"]


CASES = {
    "l2": [("ReduceL2", "x", "y", {"axes": [1]})],
    "l1_of_one": [("ReduceMean", "x", "h", {"axes": [1]}), ("ReduceL1", "h", "y", {"axes": [1], "keepdims": 0})],
    "prod": [("ReduceProd", "x", "y", {"axes": [2]})],
    "log_softmax": [("LogSoftmax", "x", "y", {"axis": 2})],
}


@pytest.mark.parametrize("name", CASES)
def test_import(name: str) -> None:
    imported(CASES[name])


def test_log_softmax_before_opset_13() -> None:
    imported([("LogSoftmax", "x", "y", {"axis": 1})], opset=11)
