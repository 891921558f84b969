import numpy as np
import pytest

from optgraph.ir.graph import Graph
from optgraph.ir.values import RELU, Act
from optgraph.ops import BatchNorm, Binary, GlobalPool, Reshape
from optgraph.passes.simplify import batchnorm
from tests.support.networks import Builder, kinds, of_kind
from tests.support.simplify_checks import applied, binary, constant


def _batch_norm(b: Builder, x: str, variance: str | None = None) -> str:
    channels = b.graph.shape(x)[1]
    s, shift, mean = b.constant(channels, mean=1.0, scale=0.3), b.constant(channels), b.constant(channels)
    variance = variance or constant(b, np.linspace(0.01, 3, channels))
    return b.graph.add(BatchNorm(epsilon=1e-3), [x, s, shift, mean, variance], origin=["bn"]).output


def _affine(graph: Graph, rewrites: int = 1):
    after, outcome = applied(batchnorm.run, graph, 1e-6)
    assert outcome.rewrites == rewrites
    return after


def test_batch_norm():
    b = Builder()
    after = _affine(b.done(b.act(_batch_norm(b, b.x))))
    assert kinds(after) == {"Affine": 1, "Activation": 1} and of_kind(after, "Affine")[0].origin == ("bn",)
    assert all(a.shape == (12,) and a.dtype == np.float32 for a in after.constants.values())


def test_keras_pieces():
    b = Builder()
    c = [
        b.constant(1, 12, 1, 1),
        b.constant(12, 1, 1),
        b.constant(1, 12, 1, 1),
        constant(b, 0.17),
        b.constant(12, 1, 1),
    ]
    y = binary(b, "sub", b.conv(b.x, 12), c[0])
    y = binary(b, "add", binary(b, "mul", y, c[1]), c[2])
    y = binary(b, "add", c[4], binary(b, "div", y, c[3]))
    after = _affine(b.done(y))
    assert kinds(after) == {"Conv": 1, "Affine": 1} and len(of_kind(after, "Affine")[0].origin) == 5


@pytest.mark.parametrize("fn", ["add", "sub", "mul", "div"])
@pytest.mark.parametrize("left", [False, True])
def test_each_operator_on_each_side(fn, left):
    b = Builder()
    c, x = constant(b, np.linspace(0.5, 2, 12).reshape(12, 1, 1)), b.act(b.x, Act("sigmoid"))
    graph = b.done(b.add(binary(b, fn, *((c, x) if left else (x, c))), b.x))
    quotient = fn == "div" and left  # c / x is not affine
    after = _affine(graph, 0 if quotient else 1)
    assert kinds(after) == {"Activation": 1, "Binary": 2 if quotient else 1} | ({} if quotient else {"Affine": 1})


def test_features():
    b = Builder(size=1)
    flat = b.graph.add(Reshape(shape=("N", 12)), [b.x]).output
    after = _affine(b.done(binary(b, "add", binary(b, "mul", flat, b.constant(12)), b.constant(1, 12))))
    assert kinds(after) == {"Reshape": 1, "Affine": 1}


def test_composition_is_in_float64():
    """(x - m) s + m s is x s: what rounding of m s leaves is as large as m."""
    b = Builder()
    mean, scale = b.constant(12, 1, 1, mean=1e6), b.constant(12, 1, 1, mean=1.0, scale=0.1)
    back = b.graph.add_constant(b.graph.constants[mean].astype(np.float64) * b.graph.constants[scale])
    y = binary(b, "add", binary(b, "mul", binary(b, "sub", b.x, mean), scale), back)
    after, outcome = applied(batchnorm.run, b.done(y), 1e-7)
    assert outcome.rewrites == 1 and kinds(after) == {"Affine": 1}


def test_a_value_read_elsewhere_ends_a_chain():
    b = Builder()
    y = binary(b, "mul", b.x, b.constant(12, 1, 1))
    after = _affine(b.done(binary(b, "add", y, b.constant(12, 1, 1)), y), 2)
    assert kinds(after) == {"Affine": 2}


@pytest.mark.parametrize("shape", [(9,), (9, 1), (12, 9, 9), (12, 1, 9)])
def test_constants_that_vary_over_pixels_stay(shape):
    b = Builder()
    after, outcome = applied(batchnorm.run, b.done(binary(b, "mul", b.x, b.constant(*shape))))
    assert outcome.rewrites == 0 and kinds(after) == {"Binary": 1}


def test_what_is_no_affine_stays():
    b = Builder()
    pooled = b.graph.add(GlobalPool(mode="max"), [b.x]).output
    values = (
        binary(b, "add", pooled, b.constant(12, 9, 9)),  # grows
        b.add(b.x, b.act(b.x)),  # no constant
        b.graph.add(Binary(fn="add", post=RELU), [b.x, b.constant(12, 1, 1)]).output,
        b.graph.add(Reshape(shape=("N", 12, 81)), [b.x]).output,
    )
    rows = binary(b, "mul", values[-1], b.constant(12, 1))  # of rank 3
    after, outcome = applied(batchnorm.run, b.done(*values, rows))
    assert outcome.rewrites == 0 and len(after) == 6 + 1


def test_infinite_scale():
    b = Builder()
    y = binary(b, "div", b.x, constant(b, np.arange(12).reshape(12, 1, 1)))
    outcome = batchnorm.run(b.done(y))
    assert outcome.rewrites == 0 and "finite" in outcome.refusals[0].reason
    b = Builder()
    outcome = batchnorm.run(b.done(_batch_norm(b, b.x, constant(b, np.full(12, -1.0)))))
    assert outcome.rewrites == 0 and "finite" in outcome.refusals[0].reason


def test_a_second_run_changes_nothing():
    b = Builder()
    after = _affine(b.done(_batch_norm(b, b.x)))
    assert refuses_nothing(after)


def refuses_nothing(graph: Graph) -> bool:
    outcome = batchnorm.run(graph)
    return outcome.rewrites == 0 and not outcome.refusals


def test_long_chains_are_walked_once(monkeypatch):
    calls = 0
    term = batchnorm._term

    def counted(graph, node):
        nonlocal calls
        calls += 1
        return term(graph, node)

    monkeypatch.setattr(batchnorm, "_term", counted)
    b = Builder()
    y = b.x
    for _ in range(200):
        y = binary(b, "add", y, constant(b, 0.01))
    assert batchnorm.run(b.done(y)).rewrites == 1
    assert calls <= 4 * 200
