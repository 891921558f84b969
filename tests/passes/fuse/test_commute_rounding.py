"""Roundings to a grid: which of them go, which move, and which stay; the same numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from optgraph.ir.graph import Graph
from optgraph.ir.grids import values_on_grids
from optgraph.ir.quant import Quant
from optgraph.ir.values import RELU, Act
from optgraph.ops import Activation, Concat, FakeQuantize, Pad, Reshape, Resize, Split, Transpose
from optgraph.passes.fuse import commute_rounding
from tests.support.networks import Builder, kinds
from tests.support.simplify_checks import applied, refusal

WIDE, POSITIVE, COARSE = Quant(0.04, -3), Quant(0.02, -128), Quant(0.1)


def rounded(b: Builder, x: str, quant: Quant = WIDE) -> str:
    return b.graph.add(FakeQuantize(quant=quant), [x], origin=[f"round_{x}"]).output


def order(graph: Graph) -> list[str]:
    return [node.op.kind for node in graph.nodes()]


MOVERS: dict[str, Callable[[Builder, str], str]] = {
    "max pool": lambda b, x: b.pool(x, "max", stride=2),
    "reshape": lambda b, x: b.graph.add(Reshape(shape=("N", -1)), [x]).output,
    "transpose": lambda b, x: b.graph.add(Transpose(perm=(0, 2, 3, 1)), [x]).output,
    "nearest": lambda b, x: b.graph.add(Resize(axes=(2, 3), scales=(2.0, 2.0)), [x]).output,
    "pad": lambda b, x: b.graph.add(Pad(pads=(0, 0, 1, 1, 0, 0, 2, 2)), [x]).output,
    "relu": lambda b, x: b.act(x),
    "split": lambda b, x: b.graph.add(Split(axis=1, sizes=(5, 7)), [x]).outputs[1],
    "concat": lambda b, x: b.concat(x, b.graph.add(Transpose(perm=(0, 1, 3, 2)), [x]).output),
}


@pytest.mark.parametrize("mover", MOVERS)
def test_what_is_on_the_grid_is_not_rounded_again(mover: str) -> None:
    b = Builder()
    graph, outcome = applied(commute_rounding.run, b.done(rounded(b, MOVERS[mover](b, rounded(b, b.conv(b.x, 12, 3))))))
    assert kinds(graph)["FakeQuantize"] == 1
    assert graph.producer(graph.outputs["y0"]).op.kind != "FakeQuantize" or mover == "relu"
    assert outcome.rewrites == 1 + (mover == "relu")


CHANGERS: dict[str, Callable[[Builder, str], str]] = {
    "another grid": lambda b, x: rounded(b, x, COARSE),
    "average": lambda b, x: b.pool(x),
    "linear": lambda b, x: b.graph.add(Resize(axes=(2, 3), scales=(2.0, 2.0), mode="linear"), [x]).output,
    "padding off the grid": lambda b, x: b.graph.add(Pad(pads=(0, 0, 1, 1, 0, 0, 2, 2), value=0.03), [x]).output,
    "padding without end": lambda b, x: b.graph.add(Pad(pads=(0, 0, 1, 1, 0, 0, 2, 2), value=-math.inf), [x]).output,
    "concat of two grids": lambda b, x: b.concat(x, rounded(b, x, COARSE)),
    "a function": lambda b, x: b.act(x, Act("tanh")),
    "a clip off the grid": lambda b, x: b.act(x, Act("clip", -0.5, 0.53)),
}


@pytest.mark.parametrize("changer", CHANGERS)
def test_what_has_left_the_grid_is_rounded_again(changer: str) -> None:
    b = Builder()
    before = b.done(rounded(b, CHANGERS[changer](b, rounded(b, b.conv(b.x, 12, 3)))))
    graph, outcome = applied(commute_rounding.run, before)
    assert outcome.rewrites == 0 and kinds(graph) == kinds(before)


@pytest.mark.parametrize(
    "act",
    [RELU, Act("leaky_relu", 0.1), Act("abs"), Act("clip", 0.0, 6.0), Act("clip", -1.0, 5.1), Act("clip", 0.0, 5.1)],
)
def test_an_activation_that_the_grid_does_goes(act: Act) -> None:
    b = Builder()
    graph, _ = applied(commute_rounding.run, b.done(b.act(rounded(b, b.conv(b.x, 6, 3), POSITIVE), act)))
    assert order(graph) == ["Conv", "FakeQuantize"]


@pytest.mark.parametrize("act", [Act("clip", 0.0, 5.0), Act("sigmoid"), Act("neg")])
def test_an_activation_that_changes_numbers_of_the_grid_stays(act: Act) -> None:
    b = Builder()
    graph, _ = applied(commute_rounding.run, b.done(b.act(rounded(b, b.conv(b.x, 6, 3), POSITIVE), act)))
    assert "Activation" in order(graph)


@pytest.mark.parametrize("act", [RELU, Act("clip", -0.4, 0.8)])
def test_an_activation_comes_before_the_rounding(act: Act) -> None:
    b = Builder()
    graph, outcome = applied(commute_rounding.run, b.done(b.act(rounded(b, b.conv(b.x, 6, 3)), act)))
    assert outcome.rewrites == 1 and order(graph) == ["Conv", "Activation", "FakeQuantize"]


def _refused(make: Callable[[Builder], Any]) -> str:
    b = Builder()
    made = make(b)
    return refusal(commute_rounding.run, b.done(*made if isinstance(made, tuple) else (made,)))


def test_an_activation_of_what_is_rounded_stays_behind() -> None:
    assert "rounded later" in _refused(lambda b: b.act(rounded(b, b.conv(b.x, 6)), Act("sigmoid")))
    assert "rounded later" in _refused(lambda b: b.act(rounded(b, b.conv(b.x, 6)), Act("clip", 0.0, 0.83)))


def test_a_value_that_is_needed_without_the_activation() -> None:
    def twice(b: Builder) -> tuple[str, str]:
        x = rounded(b, b.conv(b.x, 6))
        return b.act(x), b.conv(x, 3)

    assert "needed without the activation" in _refused(twice)


@pytest.mark.parametrize("mover", ["max pool", "reshape", "transpose"])
def test_rounding_moves_up_to_what_computes(mover: str) -> None:
    b = Builder()
    moved = MOVERS[mover](b, b.graph.add(Transpose(perm=(0, 1, 3, 2)), [b.conv(b.x, 12, 3)]).output)
    graph, outcome = applied(commute_rounding.run, b.done(rounded(b, moved)))
    assert outcome.rewrites == 1 and order(graph)[:3] == ["Conv", "FakeQuantize", "Transpose"]
    assert values_on_grids(graph)[graph.outputs["y0"]] == WIDE


def test_rounding_stays_behind_what_others_read() -> None:
    def twice(b: Builder) -> tuple[str, str]:
        x = b.conv(b.x, 12, 3)
        return rounded(b, b.pool(x, "max")), b.conv(x, 3)

    assert "also needed as it is" in _refused(twice)


def test_rounding_stays_behind_a_pool_of_an_input() -> None:
    assert "does not round" in _refused(lambda b: rounded(b, b.pool(b.x, "max")))


def test_grids_of_values() -> None:
    b = Builder()
    x = rounded(b, b.x)
    y = b.graph.add(Activation(act=Act("tanh"), quants=(COARSE, POSITIVE)), [x]).output
    z = b.graph.add(Concat(axis=1), [y, y]).output
    assert values_on_grids(b.done(b.conv(z, 3))) == {x: WIDE, y: POSITIVE, z: POSITIVE}
