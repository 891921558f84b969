"""Activations spelled in arithmetic: as exporters do, almost so, and with a value of theirs needed elsewhere."""

import math

import pytest

from optgraph.ir.values import RELU, Act
from optgraph.ops import Activation, Binary
from optgraph.passes.simplify import spelled_activations
from tests.support.networks import Builder, kinds
from tests.support.simplify_checks import applied, binary, constant, refusal

RELU6 = Act("clip", 0.0, 6.0)
SIXTH, ROOT = 0.16666667, math.sqrt(2.0)
RUN = spelled_activations.run


def with_number(b, fn, x, number, first=False):
    c = constant(b, number)
    return binary(b, fn, *((c, x) if first else (x, c)))


def plus3(b):
    return b.act(with_number(b, "add", b.x, 3.0, first=True), RELU6)


def erf(b, number=ROOT, fn="div"):
    return with_number(b, "add", b.act(with_number(b, fn, b.x, number), Act("erf")), 1.0)


SPELLED = {
    "clip, times x, by 6": ("hard_swish", lambda b: with_number(b, "div", binary(b, "mul", b.x, plus3(b)), 6.0)),
    "clip, times x, times 1/6": (
        "hard_swish",
        lambda b: with_number(b, "mul", binary(b, "mul", plus3(b), b.x), SIXTH, first=True),
    ),
    "clip by 6, times x": ("hard_swish", lambda b: binary(b, "mul", with_number(b, "div", plus3(b), 6.0), b.x)),
    "x by 6, times clip": ("hard_swish", lambda b: binary(b, "mul", with_number(b, "div", b.x, 6.0), plus3(b))),
    "hard sigmoid": (
        "hard_swish",
        lambda b: binary(b, "mul", b.x, b.act(b.x, Act("hard_sigmoid", SIXTH, 0.5))),
    ),
    "two clips": (
        "hard_swish",
        lambda b: with_number(
            b,
            "div",
            binary(b, "mul", b.x, b.act(b.act(with_number(b, "add", b.x, 3), RELU), Act("clip", -math.inf, 6.0))),
            6,
        ),
    ),
    "gelu": ("gelu", lambda b: with_number(b, "mul", binary(b, "mul", b.x, erf(b)), 0.5)),
    "half first": ("gelu", lambda b: binary(b, "mul", with_number(b, "mul", b.x, 0.5), erf(b, math.sqrt(0.5), "mul"))),
    "half of the gate": ("gelu", lambda b: binary(b, "mul", with_number(b, "mul", erf(b), 0.5), b.x)),
    "mish": ("mish", lambda b: binary(b, "mul", b.x, b.act(b.act(b.x, Act("softplus")), Act("tanh")))),
}


@pytest.mark.parametrize("name", SPELLED)
def test_gates(name):
    expected, build = SPELLED[name]
    b = Builder()
    after, outcome = applied(RUN, b.done(build(b)), bound=1e-6)
    (node,) = after.nodes()
    assert isinstance(node.op, Activation) and node.op.act.kind == expected and outcome.rewrites >= 1
    assert node.inputs == (b.x,)


def test_hard_sigmoid_by_itself():
    b = Builder()
    after, outcome = applied(RUN, b.done(with_number(b, "div", plus3(b), 6.0)), bound=1e-6)
    (node,) = after.nodes()
    assert outcome.rewrites == 1 and node.op.act == Act("hard_sigmoid", 1 / 6, 0.5)
    assert len(node.origin) == 3


ALMOST = {
    "another slope": lambda b: with_number(b, "div", binary(b, "mul", b.x, plus3(b)), 5.0),
    "another offset": lambda b: with_number(
        b, "div", binary(b, "mul", b.x, b.act(with_number(b, "add", b.x, 2.0), RELU6)), 6.0
    ),
    "another bound": lambda b: binary(
        b, "mul", b.x, with_number(b, "mul", b.act(with_number(b, "add", b.x, 3.0), Act("clip", 0.0, 5.0)), SIXTH)
    ),
    "another root": lambda b: with_number(b, "mul", binary(b, "mul", b.x, erf(b, 1.5)), 0.5),
    "a number a channel": lambda b: binary(b, "mul", binary(b, "mul", b.x, plus3(b)), b.constant(12, 1, 1)),
    "a clip alone": lambda b: b.act(b.x, Act("clip", 0.0, 1.0)),
    "a sum": lambda b: with_number(b, "div", binary(b, "add", b.x, plus3(b)), 6.0),
}


@pytest.mark.parametrize("name", ALMOST)
def test_almost_the_same_stays(name):
    b = Builder()
    graph = b.done(ALMOST[name](b))
    before = kinds(graph)
    after, outcome = applied(RUN, graph)
    assert outcome.rewrites == 0 and kinds(after) == before


@pytest.mark.parametrize("what", ["the product", "the clip"])
def test_what_is_needed_elsewhere_stays(what):
    b = Builder()
    clip = plus3(b)
    product = binary(b, "mul", b.x, clip)
    end = with_number(b, "div", product, 6.0)
    graph = b.done(end, product if what == "the product" else clip)
    assert "is also needed elsewhere" in refusal(RUN, graph)


def test_a_value_between_that_is_needed_ends_the_chain():
    b = Builder()
    doubled = with_number(b, "mul", b.x, 2.0)
    clip = b.act(with_number(b, "add", doubled, 3.0), RELU6)
    after, outcome = applied(RUN, b.done(with_number(b, "div", clip, 6.0), doubled), bound=1e-6)
    assert outcome.rewrites == 1
    (gate,) = (node for node in after.nodes() if isinstance(node.op, Activation))
    assert gate.op.act == Act("hard_sigmoid", 1 / 6, 0.5)
    assert isinstance(after.producer(gate.inputs[0]).op, Binary)
