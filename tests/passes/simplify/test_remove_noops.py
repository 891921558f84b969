import numpy as np
import pytest

from optgraph.ir.graph import Graph
from optgraph.ir.values import Value
from optgraph.ops import Cast, Concat, GlobalPool, Identity, Pad, Pool, Reduce, Reshape, Slice, Split, Transpose
from optgraph.passes.simplify import remove_noops
from tests.support.networks import Builder, kinds
from tests.support.simplify_checks import applied, binary, constant, refusal

NOOPS = [
    Identity(),
    Cast(to="float32"),
    Reshape(shape=("N", 12, 9, 9)),
    Reshape(shape=("N", -1, 9, 9)),
    Transpose(perm=(0, 1, 2, 3)),
    Concat(axis=1),
    Split(axis=1, sizes=(12,)),
    Slice(starts=(0, -9), ends=(2**40, 9), axes=(1, 2), steps=(1, 1)),
    Pad(pads=(0,) * 8),
    Pool(mode="max", kernel=(1, 1)),
    Pool(mode="average", kernel=(1, 1)),
]


@pytest.mark.parametrize("op", NOOPS, ids=lambda op: op.kind)
def test_goes(op):
    b = Builder()
    y = b.graph.add(op, [b.conv(b.x, 12, 3)]).output
    after, outcome = applied(remove_noops.run, b.done(b.act(y), y))
    assert outcome.rewrites == 1 and kinds(after) == {"Conv": 1, "Activation": 1}
    assert set(after.outputs) == {"y0", "y1"} and after.producer(after.outputs["y1"]).op.kind == "Conv"


KEPT = [
    Cast(to="float64"),
    Reshape(shape=("N", 12, 81)),
    Transpose(perm=(0, 1, 3, 2)),
    Split(axis=1, sizes=(4, 8)),
    Slice(starts=(-1,), ends=(-(2**40),), axes=(1,), steps=(-1,)),
    Slice(starts=(1,), ends=(9,), axes=(2,), steps=(1,)),
    Pad(pads=(0, 0, 1, 0, 0, 0, -1, 0)),
    Pool(mode="max", kernel=(1, 1), stride=(2, 2)),
    Reduce(mode="mean", axes=(2, 3), keepdims=True),
]


@pytest.mark.parametrize("op", KEPT, ids=lambda op: op.kind)
def test_stays(op):
    b = Builder()
    after, outcome = applied(remove_noops.run, b.done(*b.graph.add(op, [b.x]).outputs))
    assert outcome.rewrites == 0 and len(after) == 1


def test_pooling_one_pixel():
    b = Builder()
    pooled = b.graph.add(GlobalPool(mode="average"), [b.x]).output
    again = b.graph.add(GlobalPool(mode="max"), [pooled]).output
    mean = b.graph.add(Reduce(mode="mean", axes=(2, 3), keepdims=True), [again]).output
    after, outcome = applied(remove_noops.run, b.done(mean))
    assert outcome.rewrites == 2 and len(after) == 1


@pytest.mark.parametrize("fn, unit", [("add", 0), ("sub", 0), ("mul", 1), ("div", 1)])
def test_neutral_constant(fn, unit):
    b = Builder()
    y = binary(b, fn, b.x, constant(b, np.full((12, 1, 1), unit)))
    after, outcome = applied(remove_noops.run, b.done(b.act(y)))
    assert outcome.rewrites == 1 and kinds(after) == {"Activation": 1} and not after.constants


def test_neutral_on_the_left():
    b = Builder()
    y = binary(b, "mul", constant(b, 1), binary(b, "add", constant(b, 0), b.x))
    after, outcome = applied(remove_noops.run, b.done(b.act(y)))
    assert outcome.rewrites == 2 and len(after) == 1
    b = Builder()
    z = binary(b, "div", constant(b, 1), binary(b, "sub", constant(b, 0), b.x))
    after, outcome = applied(remove_noops.run, b.done(z))
    assert outcome.rewrites == 0 and len(after) == 2


def test_broadcasting_zero_is_not_neutral():
    b = Builder()
    y = b.graph.add(GlobalPool(mode="average"), [b.x]).output
    reason = refusal(remove_noops.run, b.done(binary(b, "add", y, constant(b, np.zeros((12, 9, 9))))))
    assert "broadcasts" in reason


def _casts(*dtypes: str) -> Graph:
    b = Builder()
    value = b.x
    for dtype in dtypes:
        value = b.graph.add(Cast(to=dtype), [value]).output
    return b.done(value)


def test_casts_collapse_where_lossless():
    graph = _casts("float64", "float32")
    after, outcome = applied(remove_noops.run, graph)
    assert outcome.rewrites == 1 and len(after) == 0 and after.outputs == {"y0": "x"}
    graph = _casts("float64", "int32")
    assert remove_noops.run(graph).rewrites == 1
    graph.verify()
    assert [(n.op, n.inputs) for n in graph.nodes()] == [(Cast(to="int32"), ("x",))]


def test_casts_that_round_stay():
    graph = _casts("float16", "float32")
    outcome = remove_noops.run(graph)
    assert outcome.rewrites == 0 and len(graph) == 2 and "float32 to float16" in outcome.refusals[0].reason


def test_chain_of_many_is_gone_in_one_run():
    b = Builder()
    value = b.x
    for _ in range(50):
        value = b.graph.add(Identity(), [b.graph.add(Cast(to="float32"), [value]).output]).output
    after, outcome = applied(remove_noops.run, b.done(value))
    assert outcome.rewrites == 100 and len(after) == 0


def test_identity_of_a_constant_output():
    graph = Graph()
    graph.add_input("x", Value(("N", 3)))
    graph.outputs["y"] = graph.add(Identity(), [graph.add_constant(np.ones(3, np.float32))]).output
    assert remove_noops.run(graph).rewrites == 1
    graph.verify()
    assert graph.constants[graph.outputs["y"]].tolist() == [1, 1, 1]
