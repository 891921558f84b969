"""Elementwise operators on every rank and broadcast: through the kernel, nothing falling back."""

from __future__ import annotations

import numpy as np
import pytest

from optgraph import ops
from optgraph.ir.graph import Graph
from optgraph.ir.values import IDENTITY, Act, Shape, Value
from optgraph.plan.lowering import lower
from tests.support.run_checks import kernels_agree

# numpy, in what a masked element makes of the zero that it reads
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow|divide by zero)")

FUNCTIONS = ("add", "sub", "mul", "div", "min", "max", "pow", "prelu")


def binary(fn: str, x: Shape, y: Shape, constant: str = "", post: Act = IDENTITY) -> Graph:
    """x fn y; `constant` is "x" or "y" if one of them is none of the inputs."""
    graph, names = Graph(), []
    for name, shape in (("x", x), ("y", y)):
        if name == constant:
            array = np.random.default_rng(3).uniform(0.5, 1.5, [int(d) for d in shape])
            names.append(graph.add_constant(array.astype(np.float32), name))
        else:
            names.append(graph.add_input(name, Value(shape)))
    graph.outputs = {"z": graph.add(ops.Binary(fn=fn, post=post), names).output}
    return graph


SHAPES: list[tuple[Shape, Shape]] = [
    ((), (7,)),
    ((5,), (5,)),
    ((5,), ("N", 3, 5)),
    (("N", 6), (6,)),
    (("N", 6), ("N", 1)),
    (("N", 1), (1, 6)),
    (("N", 7, 5), ("N", 7, 5)),
    (("N", 7, 5), ()),
    (("N", 7, 5), (7, 1)),
    (("N", 7, 5), ("N", 1, 5)),
    (("N", 1, 5), (7, 1)),
    (("N", 1, 1), (1, 1, 1)),
    (("N", 4, 6, 5), (6, 1)),
    (("N", 4, 6, 5), (4, 1, 1)),
    (("N", 4, 6, 5), ("N", 1, 6, 5)),
    (("N", 4, 6, 5), (1, 4, 6, 5)),
    (("N", 4, 6, 5), (1, 4, 1, 5)),
    (("N", 4, 1, 5), (6, 1)),
    (("N", 1, 6, 5), (6, 5)),
    ((2, 4, 6, 5), (2, 1, 1, 1)),
    (("N", 2, 3, 4, 5), (3, 1, 1)),
    (("N", 2, 3, 4, 5), (4, 5)),
    (("N", 2, 3, 4, 5), ("N", 2, 1, 4, 5)),
    (("N", 2, 3, 1, 5), (2, 3, 4, 1)),
    (("N", 2, 1, 2, 3, 4), (2, 3, 1)),
]


def has_batch(shape: Shape) -> bool:
    return "N" in shape


@pytest.mark.parametrize("i", range(len(SHAPES)))
def test_every_broadcast(i: int) -> None:
    x, y = SHAPES[i]
    fn = FUNCTIONS[i % len(FUNCTIONS)]
    for first, second in ((x, y), (y, x)):
        kernels_agree(binary(fn, first, second), batch=3, positive=True)
    for constant in ("x", "y"):
        shape = {"x": x, "y": y}[constant]
        if not has_batch(shape):
            fn = FUNCTIONS[(i + 3) % len(FUNCTIONS)]
            kernels_agree(binary(fn, x, y, constant, post=Act("relu")), batch=3, positive=True)


@pytest.mark.parametrize("fn", FUNCTIONS)
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_every_function(fn: str, dtype: str) -> None:
    plan = kernels_agree(binary(fn, ("N", 5, 4, 3), (5, 1, 1), "y", Act("tanh")), 2, dtype, positive=fn == "pow")
    assert plan.launches_by_kernel() == {"elementwise": 1}
    kernels_agree(binary(fn, (5, 1, 1), ("N", 5, 4, 3), "x"), 2, dtype, positive=True)


@pytest.mark.parametrize("shape", [(), (5,), ("N", 7), ("N", 3, 7), ("N", 1, 6, 5), ("N", 3, 2, 4, 5)])
def test_activation_of_every_rank(shape: Shape) -> None:
    graph = Graph()
    x = graph.add_input("x", Value(shape))
    graph.outputs = {"y": graph.add(ops.Activation(act=Act("gelu")), [x]).output}
    kernels_agree(graph, batch=3)


def test_a_constant_that_float16_has_not_survives_half_precision() -> None:
    graph = Graph()
    x, large = graph.add_input("x", Value(("N", 4, 3))), graph.add_constant(np.array([1e6], np.float32))
    op = ops.Binary(fn="div", post=Act("hard_sigmoid", 1e5, 0.5))
    graph.outputs = {"y": graph.add(op, [x, large]).output}
    kernels_agree(graph, dtype="fp16")


def test_operands_that_do_not_merge_fall_back() -> None:
    graph = binary("add", ("N", 1, 3, 1, 5), (2, 1, 4, 1))
    (fallback,) = lower(graph, 2).fallbacks
    assert "do not merge" in fallback.reason


def test_a_batch_of_any_size_needs_no_other_kernels() -> None:
    for x, y in SHAPES:
        graph = binary("mul", x, y)
        views = []
        for batch in (2, 3, 8) if has_batch(x + y) else (1, 1, 1):
            (call,) = lower(graph, batch).calls
            views.append([view.shape[1:] for view in call.views()])
        assert views[0] == views[1] == views[2]
