import numpy as np
import pytest
import torch

from optgraph.ir.graph import Graph
from optgraph.ir.values import RELU, Value
from optgraph.onnx.sessions import session
from optgraph.onnx.write import to_onnx
from optgraph.ops import Gemm, GlobalPool, Reshape
from optgraph.passes.fuse import flatten
from optgraph.plan.lowering import lower
from optgraph.plan.plans import Plans
from optgraph.run import reference
from optgraph.run.engine import Engine
from tests.support.networks import Builder, difference, kinds


def classifier(b: Builder, image: str) -> str:
    """Flatten, 7 hidden units, 5 classes."""
    _, c, h, w = b.graph.shape(image)
    flat = b.graph.add(Reshape(shape=("N", -1)), (image,), origin=("flatten",)).output
    hidden = b.graph.add(Gemm(act=RELU), (flat, b.constant(7, c * h * w), b.constant(7)), origin=("dense",)).output
    return b.graph.add(Gemm(), (hidden, b.constant(5, 7))).output


def flattened(graph: Graph):
    after = graph.copy()
    outcome = flatten.run(after)
    assert difference(graph, after) < 1e-12
    return after, outcome


def test_images_go_into_the_dense_layer():
    b = Builder(channels=6, size=5)
    after, outcome = flattened(b.done(classifier(b, b.conv(b.x, 4, 3))))
    assert outcome.rewrites == 1 and not outcome.refusals and kinds(after) == {"Conv": 1, "Gemm": 2}
    dense = after.nodes()[1]
    assert after.shape(dense.inputs[0]) == ("N", 4, 5, 5) and set(dense.origin) == {"flatten", "dense"}
    plan = lower(after)
    assert plan.launches_by_kernel() == {"conv2d": 1, "dense": 2} and not plan.fallbacks


@pytest.mark.parametrize("source", ["conv", "input"])
def test_kernels_and_export_agree(source):
    b = Builder(channels=6, size=5)
    graph = b.done(classifier(b, b.conv(b.x, 4, 3) if source == "conv" else b.x))
    after, _ = flattened(graph)
    x = torch.randn(3, 6, 5, 5)
    expected = reference.run(graph, {"x": x}, torch.float64)["y0"]
    engine = Engine(Plans(after, "fp32"), torch.device("cpu"))
    assert engine.plan(3).fallbacks == ()
    exported = session(to_onnx(after).SerializeToString()).run(None, {"x": x.numpy()})[0]
    for actual in (engine({"x": x}, len(x))["y0"], torch.from_numpy(exported)):
        assert (actual - expected).norm() < 1e-6 * expected.norm()


def test_a_channel_slice_falls_back_with_a_reason():
    b = Builder(channels=6, size=5)
    part = b.conv(b.x, 4, 3)
    whole = b.concat(part, b.x)
    whole = b.graph.update(b.graph.producer(whole), type(b.graph.producer(whole).op)(axis=1, in_place=(True, False)))
    after, _ = flattened(b.done(classifier(b, part), whole.output))
    (fallback,) = lower(after).fallbacks
    assert fallback.op == "Gemm" and "do not lie in one piece" in fallback.reason


def test_every_reader_and_the_reshape_stays_for_others():
    b = Builder(channels=6, size=5)
    flat = b.graph.add(Reshape(shape=("N", 150)), (b.x,)).output
    heads = [b.graph.add(Gemm(), (flat, b.constant(3, 150))).output for _ in range(2)]
    after, outcome = flattened(b.done(*heads, flat))
    assert outcome.rewrites == 2 and kinds(after) == {"Reshape": 1, "Gemm": 2}


def test_refuses_with_the_reason():
    b = Builder(channels=6)
    pooled = b.graph.add(GlobalPool(mode="average"), (b.x,)).output
    _, outcome = flattened(b.done(classifier(b, pooled)))
    assert outcome.rewrites == 0 and [r.reason for r in outcome.refusals] == ["it moves nothing"]
    graph = Graph()
    rows = graph.add(Reshape(shape=(12, 8)), (graph.add_input("x", Value((2, 3, 4, 4))),)).output
    graph.outputs["y"] = graph.add(Gemm(), (rows, graph.add_constant(np.ones((3, 8), np.float32)))).output
    (refusal,) = flatten.run(graph).refusals
    assert refusal.reason == "[2, 3, 4, 4] to [12, 8] does not flatten images"
