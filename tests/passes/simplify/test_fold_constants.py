import numpy as np

from optgraph.base.budget import Budget
from optgraph.ir.graph import Graph
from optgraph.ir.values import Value
from optgraph.ops import Cast, Reshape, Transpose
from optgraph.passes.simplify import fold_constants
from optgraph.run import reference
from tests.support.networks import Builder, kinds
from tests.support.simplify_checks import applied, binary, constant, opaque


def test_arithmetic_on_weights():
    b = Builder()
    variance = binary(b, "add", constant(b, np.linspace(1, 2, 12).reshape(12, 1, 1)), constant(b, 0.001))
    root = opaque(b.graph, "Sqrt", [variance], (12, 1, 1)).output
    turned = b.graph.add(Transpose(perm=(2, 1, 0)), [root]).output
    flat = b.graph.add(Reshape(shape=(12, 1, 1)), [turned]).output
    after, outcome = applied(fold_constants.run, b.done(binary(b, "div", b.x, flat)), 1e-6)
    assert outcome.rewrites == 4 and kinds(after) == {"Binary": 1} and len(after.constants) == 1
    (array,) = after.constants.values()
    assert array.dtype == np.float32 and array.shape == (12, 1, 1)
    assert np.allclose(array.reshape(-1) ** 2, np.linspace(1, 2, 12) + 0.001, rtol=1e-6)


def test_integers_keep_their_dtype():
    graph = Graph()
    x = graph.add_input("x", Value(("N", 2)))
    cast = graph.add(Cast(to="int64"), [graph.add_constant(np.array([1.9, -1.9], np.float32))]).output
    graph.outputs = {"y": graph.add(Cast(to="int64"), [x]).output, "z": cast}
    assert fold_constants.run(graph).rewrites == 1
    assert graph.constants[graph.outputs["z"]].tolist() == [1, -1]
    assert reference.run(graph, {"x": np.ones((1, 2), np.float32)})["z"].tolist() == [1, -1]


def _zeros(*shape: int) -> Graph:
    graph = Graph()
    graph.add_input("x", Value(("N",)))
    dims = graph.add_constant(np.array(shape, np.int64))
    graph.outputs["y"] = opaque(graph, "ConstantOfShape", [dims], shape).output
    return graph


def test_budget():
    graph = _zeros(2, 3)
    assert fold_constants.run(graph).rewrites == 1 and len(graph) == 0
    graph = _zeros(1 << 33)
    outcome = fold_constants.run(graph)  # 32 GiB: this would not return if it were computed
    assert outcome.rewrites == 0 and len(graph) == 1
    assert (
        f"{(1 << 35) - 8} bytes" in outcome.refusals[0].reason and "--budget folded_bytes" in outcome.refusals[0].reason
    )


def test_the_budget_is_for_all_together():
    graph = Graph()
    graph.budget = Budget(folded_bytes=1000)
    graph.add_input("x", Value(("N",)))
    for i in range(3):  # 400 bytes each, less the 8 of the shape
        dims = graph.add_constant(np.array([100], np.int64))
        graph.outputs[f"y{i}"] = opaque(graph, "ConstantOfShape", [dims], (100,)).output
    outcome = fold_constants.run(graph)
    assert outcome.rewrites == 2 and "add 392 bytes of constants, the budget has 216 left" in outcome.refusals[0].reason


def test_unknown_size_is_not_computed():
    graph = Graph()
    graph.add_input("x", Value(("N",)))
    dims = graph.add_constant(np.array([4], np.int64))
    graph.outputs["y"] = opaque(graph, "ConstantOfShape", [dims], ("?",)).output
    outcome = fold_constants.run(graph)
    assert outcome.rewrites == 0 and "not known" in outcome.refusals[0].reason


def test_weights_over_the_budget_may_keep_their_size():
    b = Builder()
    b.graph.budget = Budget(folded_bytes=16)
    turned = b.graph.add(Transpose(perm=(1, 0, 2)), [constant(b, np.arange(12).reshape(1, 12, 1) + 1.0)]).output
    graph = b.done(binary(b, "mul", b.x, turned))
    assert applied(fold_constants.run, graph)[1].rewrites == 1
    b = Builder()
    b.graph.budget = Budget(folded_bytes=16)
    sums = binary(b, "add", constant(b, np.ones((9, 1))), constant(b, np.ones((1, 9))))
    outcome = applied(fold_constants.run, b.done(binary(b, "mul", b.x, sums)))[1]
    assert outcome.rewrites == 0 and "budget" in outcome.refusals[0].reason


def test_random_numbers_stay():
    graph = Graph()
    graph.add_input("x", Value(("N",)))
    graph.outputs["y"] = opaque(graph, "RandomNormal", [], (2,), shape=[2]).output
    outcome = fold_constants.run(graph)
    assert outcome.rewrites == 0 and "each time" in outcome.refusals[0].reason


def test_what_cannot_be_evaluated_stays():
    graph = Graph()
    graph.add_input("x", Value(("N",)))
    graph.outputs["y"] = opaque(graph, "NoSuchOperator", [graph.add_constant(np.ones(2, np.float32))], (2,)).output
    outcome = fold_constants.run(graph)
    assert outcome.rewrites == 0 and "cannot be evaluated" in outcome.refusals[0].reason
