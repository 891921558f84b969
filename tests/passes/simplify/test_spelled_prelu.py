"""PRelus spelled in pieces: as frameworks do, almost so, and with a value of theirs needed elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from optgraph.ir.values import BATCH, RELU, Act, Value
from optgraph.ops import Activation, Binary
from optgraph.passes.simplify import spelled_prelu
from optgraph.run import reference
from tests.support.networks import Builder, kinds
from tests.support.simplify_checks import applied, binary, constant, refusal

RUN = spelled_prelu.run
NEG, BELOW = Act("neg"), Act("clip", -math.inf, 0.0)
SLOPES = np.linspace(0.1, 0.9, 12, dtype=np.float32).reshape(12, 1, 1)


def relu_of_minus_x(b: Builder) -> str:
    return b.act(b.act(b.x, NEG))


def times(b: Builder, x: str, slopes: np.ndarray = SLOPES, first: bool = False) -> str:
    s = constant(b, slopes)
    return binary(b, "mul", *((s, x) if first else (x, s)))


SPELLED: dict[str, Callable[[Builder], str]] = {
    "minus": lambda b: binary(b, "sub", b.act(b.x), times(b, relu_of_minus_x(b))),
    "Keras": lambda b: binary(b, "add", b.act(b.x), times(b, relu_of_minus_x(b), -SLOPES, first=True)),
    "minus the ReLU": lambda b: binary(b, "add", b.act(b.x), times(b, b.act(relu_of_minus_x(b), NEG))),
    "minus the product": lambda b: binary(b, "add", b.act(times(b, relu_of_minus_x(b)), NEG), b.act(b.x)),
    "times -1": lambda b: binary(b, "sub", b.act(b.x), times(b, b.act(times(b, b.x, np.float32(-1.0))))),
    "minimum": lambda b: binary(b, "add", times(b, b.act(b.x, BELOW)), b.act(b.x)),
    "maximum": lambda b: binary(b, "max", b.x, times(b, b.x)),
    "maximum, turned": lambda b: binary(b, "max", times(b, b.x, first=True), b.x),
}


@pytest.mark.parametrize("name", SPELLED)
def test_one_of_it(name: str) -> None:
    b = Builder()
    after, outcome = applied(RUN, b.done(SPELLED[name](b)))
    (node,) = after.nodes()
    assert outcome.rewrites == 1 and node.op == Binary(fn="prelu") and node.inputs[0] == "x"
    np.testing.assert_array_equal(after.constants[node.inputs[1]], SLOPES)
    assert len(node.origin) > 1 and len(after.constants) == 1


@pytest.mark.parametrize("slope", [0.25, -1.5, 3.0])
def test_one_slope_for_all_is_a_leaky_relu(slope: float) -> None:
    b = Builder()
    after, _ = applied(RUN, b.done(binary(b, "sub", b.act(b.x), times(b, relu_of_minus_x(b), np.float32(slope)))))
    assert [node.op for node in after.nodes()] == [Activation(act=Act("leaky_relu", slope))]


def test_slopes_multiply() -> None:
    b = Builder()
    below = times(b, times(b, b.act(b.x, BELOW)), np.float32(-2.0))
    after, _ = applied(RUN, b.done(binary(b, "add", b.act(b.x), below)))
    (node,) = after.nodes()
    np.testing.assert_allclose(after.constants[node.inputs[1]], -2 * SLOPES, rtol=1e-6)


def test_special_numbers() -> None:
    """As it was spelled: of -Inf and a slope of 0 a NaN, of Inf an Inf."""
    b, slopes = Builder(channels=3, size=2), np.array([0.0, -1.5, 2.0], np.float32).reshape(3, 1, 1)
    graph = b.done(binary(b, "sub", b.act(b.x), times(b, relu_of_minus_x(b), slopes)))
    after = graph.copy()
    assert RUN(after).rewrites == 1
    x = np.broadcast_to(np.array([[np.nan, np.inf], [-np.inf, -0.0]], np.float32), (1, 3, 2, 2))
    one, two = (reference.run(g, {"x": x})["y0"].numpy() for g in (graph, after))
    np.testing.assert_array_equal(one, two)
    assert np.isnan(one[0, :, 0, 0]).all() and np.isnan(one[0, 0, 1, 0])


OTHERS: dict[str, Callable[[Builder], str]] = {
    "turned": lambda b: binary(b, "sub", times(b, relu_of_minus_x(b)), b.act(b.x)),
    "of another": lambda b: binary(b, "sub", b.act(b.x), times(b, b.act(b.act(b.conv(b.x, 12), NEG)))),
    "below another": lambda b: binary(b, "add", b.act(b.x), times(b, b.act(b.conv(b.x, 12), BELOW))),
    "no minus": lambda b: binary(b, "sub", b.act(b.x), times(b, b.act(b.x))),
    "twice x": lambda b: binary(b, "sub", b.act(b.x), times(b, b.act(times(b, b.x, np.float32(-2.0))))),
    "computed": lambda b: binary(b, "sub", b.act(b.x), binary(b, "mul", relu_of_minus_x(b), b.act(b.x, Act("exp")))),
    "steep maximum": lambda b: binary(b, "max", b.x, times(b, b.x, 2 * SLOPES)),
    "flat maximum": lambda b: binary(b, "max", b.x, times(b, b.x, SLOPES - SLOPES[0])),
    "another minimum": lambda b: binary(b, "add", times(b, b.act(b.x, Act("clip", -math.inf, 1.0))), b.act(b.x)),
    "an activation between": lambda b: binary(
        b, "add", b.act(b.x), b.graph.add(Binary(fn="mul", post=RELU), (b.act(b.x, BELOW), constant(b, -SLOPES))).output
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_almost_one(name: str) -> None:
    b = Builder()
    graph = b.done(OTHERS[name](b))
    after, outcome = applied(RUN, graph)
    assert outcome.rewrites == 0 and not outcome.refusals and kinds(after) == kinds(graph)


def test_slopes_that_make_it_larger() -> None:
    b = Builder(channels=1)
    _, outcome = applied(RUN, b.done(SPELLED["minus"](b)))
    assert outcome.rewrites == 0


@pytest.mark.parametrize("name", ["minus", "minimum", "maximum"])
def test_a_value_needed_elsewhere(name: str) -> None:
    b = Builder()
    y = SPELLED[name](b)
    inner = next(node.output for node in b.graph.nodes() if node.output != y)
    assert refusal(RUN, b.done(y, inner)).endswith("is also needed elsewhere")


def test_slopes_that_leave_their_type() -> None:
    b = Builder()
    x = b.graph.add_input("v", Value((BATCH, 2, 4, 4), "float16"))
    large = [constant(b, [[[300.0]], [[200.0]]], "float16") for _ in "ab"]
    y = binary(b, "mul", binary(b, "mul", b.act(b.act(x, NEG)), large[0]), large[1])
    graph = b.done(binary(b, "sub", b.act(x), y))
    outcome = RUN(graph)
    assert outcome.rewrites == 0 and outcome.refusals[0].reason == "a folded constant is not finite in float16"
