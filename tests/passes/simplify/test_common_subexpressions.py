import ml_dtypes
import numpy as np

from optgraph.ir.graph import Graph
from optgraph.ir.values import RELU, Value
from optgraph.ops import Activation
from optgraph.passes.simplify import common_subexpressions
from tests.support.networks import Builder, kinds
from tests.support.simplify_checks import applied, binary, constant, opaque


def test_equal_chains_merge():
    b = Builder()
    chains = [b.act(b.pool(b.act(b.x), "max")) for _ in range(3)]
    after, outcome = applied(common_subexpressions.run, b.done(b.add(b.add(chains[0], chains[1]), chains[2])))
    assert outcome.rewrites == 6 and kinds(after) == {"Activation": 2, "Pool": 1, "Binary": 2}


def test_equal_constants_are_one():
    b = Builder()
    first, second = (binary(b, "mul", b.x, constant(b, np.arange(1, 13).reshape(12, 1, 1))) for _ in range(2))
    after, outcome = applied(common_subexpressions.run, b.done(first, second))
    assert outcome.rewrites == 1 and len(after.constants) == 1
    assert after.outputs["y0"] == after.outputs["y1"]


def test_equal_constants_of_bfloat16():
    graph = Graph()
    names = [graph.add_constant(np.array([1, 2, 3], ml_dtypes.bfloat16)) for _ in range(2)]
    graph.outputs = {"y": opaque(graph, "Add", names, (3,), dtype="bfloat16").output}
    common_subexpressions.run(graph)
    (node,) = graph.nodes()
    assert node.inputs == (names[0], names[0])


def test_constants_that_differ_past_the_sample():
    """Alike where the quick comparison looks, and in shape and dtype: only the contents tell."""
    b = Builder(channels=1000, size=1)
    array = np.ones((1000, 1, 1), np.float32)
    other = array.copy()
    other[5] = 2.0
    assert common_subexpressions._sample(array) == common_subexpressions._sample(other)
    values = [binary(b, "mul", b.x, b.graph.add_constant(a)) for a in (array, other, array.reshape(1, 1000, 1, 1))]
    after, outcome = applied(common_subexpressions.run, b.done(*values))
    assert outcome.rewrites == 0 and len(after) == 3 and len(after.constants) == 3


def test_strided_constants():
    b = Builder(channels=3, size=3)
    array = np.arange(9, dtype=np.float32).reshape(3, 3)
    values = [binary(b, "mul", b.x, b.graph.add_constant(a)) for a in (array.T, np.ascontiguousarray(array.T), array)]
    _, outcome = applied(common_subexpressions.run, b.done(*values))
    assert outcome.rewrites == 1


def test_different_operators_stay():
    b = Builder()
    after, outcome = applied(
        common_subexpressions.run,
        b.done(b.pool(b.x, "max"), b.pool(b.x), b.pool(b.x, stride=2), b.conv(b.x, 4), b.conv(b.x, 4)),
    )
    assert outcome.rewrites == 0 and len(after) == 5


def test_operands_in_another_order_stay():
    b = Builder()
    y = b.act(b.x)
    _, outcome = applied(common_subexpressions.run, b.done(binary(b, "sub", b.x, y), binary(b, "sub", y, b.x)))
    assert outcome.rewrites == 0


def test_opaque_nodes_differ_by_name_only():
    b = Builder()
    shape = ("N", 12, 9, 9)
    values = [opaque(b.graph, "Elu", [b.x], shape, alpha=alpha).output for alpha in (0.5, 0.5, 0.25)]
    after, outcome = applied(common_subexpressions.run, b.done(*values))
    assert outcome.rewrites == 1 and kinds(after) == {"Elu": 2}


def test_random_numbers_stay_apart():
    graph = Graph()
    graph.add_input("x", Value(("N",)))
    graph.outputs = {n: opaque(graph, "RandomNormal", [], (2,), shape=[2]).output for n in "ab"}
    outcome = common_subexpressions.run(graph)
    assert outcome.rewrites == 0 and len(graph) == 2 and "each time" in outcome.refusals[0].reason


def test_origins_are_joined():
    b = Builder()
    values = [b.graph.add(Activation(act=RELU), [b.x], origin=[name]).output for name in ("first", "second")]
    merged, _ = applied(common_subexpressions.run, b.done(*values))
    (node,) = merged.nodes()
    assert node.origin == ("first", "second")
