from optgraph.ops import Concat, Reshape
from optgraph.passes.simplify import merge_chains
from tests.support.networks import Builder, kinds, of_kind
from tests.support.simplify_checks import applied, refusal


def _reshape(b: Builder, x: str, *shape) -> str:
    return b.graph.add(Reshape(shape=shape), [x], origin=[f"to_{len(shape)}"]).output


def test_reshapes():
    b = Builder()
    y = _reshape(b, _reshape(b, _reshape(b, b.x, "N", -1), "N", 81, 12), "N", 3, 4, -1)
    after, outcome = applied(merge_chains.run, b.done(y))
    (node,) = after.nodes()
    assert outcome.rewrites == 2 and node.op.shape == ("N", 3, 4, 81) and set(node.origin) == {"to_2", "to_3", "to_4"}


def test_reshape_read_elsewhere_stays_for_it():
    b = Builder()
    y = _reshape(b, b.x, "N", -1)
    after, outcome = applied(merge_chains.run, b.done(_reshape(b, y, "N", 81, 12), y))
    assert outcome.rewrites == 1 and [n.inputs for n in after.nodes()] == [("x",), ("x",)]


def test_concats():
    b = Builder()
    inner = b.concat(b.concat(b.x, b.act(b.x)), b.x)
    after, outcome = applied(merge_chains.run, b.done(b.concat(b.x, inner, b.conv(b.x, 4))))
    (node,) = of_kind(after, "Concat")
    assert outcome.rewrites == 2 and len(node.inputs) == 5 and after.shape(node.output) == ("N", 52, 9, 9)


def test_concats_on_different_axes():
    b = Builder()
    rows = b.graph.add(Concat(axis=2), [b.x, b.act(b.x)]).output
    after, outcome = applied(merge_chains.run, b.done(b.concat(rows, rows)))
    assert outcome.rewrites == 0 and kinds(after)["Concat"] == 2


def test_concat_read_elsewhere():
    b = Builder()
    inner = b.concat(b.x, b.act(b.x))
    assert "needed elsewhere" in refusal(merge_chains.run, b.done(b.concat(inner, b.x), b.conv(inner, 4)))
    b = Builder()
    inner = b.concat(b.x, b.act(b.x))
    assert "needed elsewhere" in refusal(merge_chains.run, b.done(b.concat(inner, inner)))


def test_only_the_inner_ones_that_are_free():
    b = Builder()
    shared, free = b.concat(b.x, b.act(b.x)), b.concat(b.x, b.conv(b.x, 3))
    after, outcome = applied(merge_chains.run, b.done(b.concat(shared, free), shared))
    assert outcome.rewrites == 1
    assert [len(node.inputs) for node in of_kind(after, "Concat")] == [2, 3]
