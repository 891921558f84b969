"""The runtime, through Triton's interpreter: blocks of the networks against the float64 reference."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from optgraph import ops
from optgraph.ir.graph import Graph
from optgraph.ir.values import RELU, Act, Value
from optgraph.kernels.frame.arguments import Jit
from optgraph.kernels.frame.launch import Launch
from optgraph.kernels.frame.tile import Tile
from optgraph.kernels.frame.work import Work
from optgraph.passes import pipeline
from optgraph.plan.plans import Plans
from optgraph.run import reference
from optgraph.run.context import Context, with_workspaces
from optgraph.run.engine import Engine
from tests.support.networks import Builder, inception_a, inception_resnet, preactivation_resnet, xception

CPU = torch.device("cpu")


def engine(graph: Graph, dtype: str = "fp32") -> Engine:
    fused = graph.copy()
    pipeline.apply(fused, pipeline.FUSE)
    return Engine(Plans(fused, dtype), CPU)


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("build", [inception_a, xception, inception_resnet, preactivation_resnet])
def test_blocks_match_the_reference(build, batch) -> None:
    graph = build()
    x = torch.randn(batch, *(int(d) for d in graph.shape("x")[1:]))
    expected = reference.run(graph, {"x": x}, torch.float64)
    actual = engine(graph)({"x": x}, len(x))
    assert actual.keys() == expected.keys()
    for name in expected:
        assert relative(actual[name], expected[name]) < 1e-6


def test_half_precision() -> None:
    graph = inception_resnet()
    x = torch.randn(2, *(int(d) for d in graph.shape("x")[1:]))
    expected = reference.run(graph, {"x": x}, torch.float64)["y0"]
    error = relative(engine(graph, "fp16")({"x": x}, len(x))["y0"], expected)
    assert 1e-6 < error < 5e-3


def test_batches_of_any_size_through_one_engine() -> None:
    graph = xception()
    run = engine(graph)
    for batch in (2, 1, 3, 2):
        x = torch.randn(batch, *(int(d) for d in graph.shape("x")[1:]))
        assert relative(run({"x": x}, len(x))["y0"], reference.run(graph, {"x": x}, torch.float64)["y0"]) < 1e-6


def test_threads_share_an_engine() -> None:
    graph = inception_a()
    run = engine(graph)
    images = [torch.randn(1, *(int(d) for d in graph.shape("x")[1:])) for _ in range(6)]
    results: dict[int, torch.Tensor] = {}

    def work(start: int) -> None:
        for i in range(start, len(images), 3):
            results[i] = run({"x": images[i]}, 1)["y0"]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, image in enumerate(images):
        assert relative(results[i], reference.run(graph, {"x": image}, torch.float64)["y0"]) < 1e-6


def test_two_contexts_of_an_engine_have_buffers_of_their_own() -> None:
    run = engine(xception())
    with run.context(1) as first, run.context(1) as second:
        assert first is not second
    with run.context(1) as again:
        assert again in (first, second)


def test_a_first_call_in_inference_mode_leaves_later_ones_free() -> None:
    graph = xception()
    run, x = engine(graph), torch.randn(1, *(int(d) for d in graph.shape("x")[1:]))
    with torch.inference_mode():
        inside = run({"x": x.clone()}, 1)["y0"]
    outside = run({"x": x}, 1)["y0"]
    outside.add_(0.0)
    assert torch.equal(inside, outside) and not outside.is_inference()
    assert not any(weight.is_inference() for weight in run._weights._packed.values())


def test_inputs_that_require_a_gradient_leave_no_trace() -> None:
    graph = xception()
    run, x = engine(graph), torch.randn(1, *(int(d) for d in graph.shape("x")[1:]))
    expected = run({"x": x}, 1)["y0"]
    for _ in range(2):
        result = run({"x": x.clone().requires_grad_()}, 1)["y0"]
        assert torch.equal(result, expected) and not result.requires_grad
    with run.context(1) as context:
        assert not any(tensor.requires_grad for tensor in context._buffers.inputs.values())


def test_launches_of_one_stream_share_a_workspace() -> None:
    def launch(workspace: int) -> Launch:
        return Launch("k", Jit("k", "k"), (1,), {}, {}, Tile(16, 16), Work([], []), workspace=workspace)

    def plain() -> None: ...

    launches = [launch(0), launch(4096), launch(8192), launch(64), plain]
    bound = with_workspaces(launches, (0, 0, 1, 0, 1), CPU)
    assert bound[0] is launches[0] and bound[4] is plain
    first, other, again = (b.arguments["workspace"] for b in bound[1:4] if isinstance(b, Launch))
    assert isinstance(first, torch.Tensor) and isinstance(other, torch.Tensor) and isinstance(again, torch.Tensor)
    assert first.data_ptr() == again.data_ptr() != other.data_ptr()
    assert first.nbytes == 4096 and other.nbytes == 8192
    assert not first.any() and not other.any()


def test_a_value_that_no_kernel_wrote_is_nan() -> None:
    run = engine(xception())
    with run.context(1) as context:
        assert isinstance(context, Context)
        for view in context.plan.outputs.values():
            assert context.view(view).isnan().all()


def test_fallbacks_run_in_the_middle_of_a_plan() -> None:
    b = Builder(channels=6, size=8)
    y = b.graph.add(ops.LRN(size=3, alpha=0.5), [b.act(b.conv(b.x, 8, 3))]).output
    crop = ops.Resize(
        axes=(2, 3), sizes=(8, 8), coordinates="tf_crop_and_resize", roi=(0.1, 0.0, 1.2, 0.9), mode="linear"
    )
    y = b.graph.add(crop, [y]).output
    cut = b.graph.add(ops.Slice(starts=(1, 2), ends=(7, 8), axes=(2, 3), steps=(2, 1)), [y]).output
    left, right = b.graph.add(ops.Split(axis=1, sizes=(3, 5)), [cut]).outputs
    flat = b.graph.add(ops.Reshape(shape=("N", -1)), [b.conv(right, 2)]).output
    graph = b.done(b.conv(left, 4, 3), flat)
    run = engine(graph)
    assert {f.op for f in run.plan(2).fallbacks} == {"Resize"}
    x = torch.randn(2, 6, 8, 8)
    expected = reference.run(graph, {"x": x}, torch.float64)
    actual = run({"x": x}, len(x))
    for name in expected:
        assert relative(actual[name], expected[name]) < 1e-6


def test_leftovers_run_as_elementwise_kernels() -> None:
    b = Builder(channels=5, size=6)
    gate = b.graph.add(ops.GlobalPool(mode="average", act=Act("sigmoid")), [b.x]).output
    gated = b.graph.add(ops.Binary(fn="mul"), [gate, b.x]).output
    summed = b.graph.add(ops.Binary(fn="add", post=RELU), [gated, b.affine(b.x)]).output
    joined = b.concat(summed, b.x, b.act(b.x, Act("hard_swish")))
    graph = b.done(joined)
    run = engine(graph)
    assert run.plan(1).fallbacks == ()
    x = torch.randn(3, 5, 6, 6)
    assert relative(run({"x": x}, len(x))["y0"], reference.run(graph, {"x": x}, torch.float64)["y0"]) < 1e-6


def test_classifier_head() -> None:
    graph = Graph()
    x = graph.add_input("x", Value(("N", 37, 4, 3)))
    b = Builder()
    pooled = graph.add(ops.GlobalPool(mode="average"), [x]).output
    flat = graph.add(ops.Reshape(shape=(-1, 37)), [pooled]).output
    w = graph.add_constant(b.graph.constants[b.constant(11, 37)])
    bias = graph.add_constant(b.graph.constants[b.constant(11)])
    logits = graph.add(ops.Gemm(), [flat, w, bias]).output
    graph.outputs = {"logits": logits, "probabilities": graph.add(ops.Softmax(axis=1), [logits]).output}
    run = engine(graph)
    assert run.plan(1).launches_by_kernel() == {"global_pool": 1, "dense": 1, "softmax": 1}
    image = torch.randn(3, 37, 4, 3)
    expected = reference.run(graph, {"x": image}, torch.float64)
    actual = run({"x": image}, len(image))
    for name in expected:
        assert relative(actual[name], expected[name]) < 1e-6
    assert torch.allclose(actual["probabilities"].sum(1), torch.ones(3))


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_outputs_that_are_constants(dtype: str) -> None:
    """Beside one that is not, and alone; the caller's own each time."""
    b = Builder()
    graph = b.done(b.conv(b.x, 4), graph_constant := b.constant(5))
    index = graph.add_constant(np.array([[1, 2**40]]), "index")
    graph.outputs["index"] = index
    run = engine(graph, dtype)
    for batch in (1, 3):
        results = run({"x": torch.randn(batch, 12, 9, 9)}, batch)
        assert results["y0"].shape == (batch, 4, 9, 9)
        assert relative(results["y1"], torch.tensor(graph.constants[graph_constant])) < 1e-3
        assert results["index"].tolist() == [[1, 2**40]]
        results["index"].zero_()
    graph.outputs = {"only": index}
    assert engine(graph, dtype)({"x": torch.randn(2, 12, 9, 9)}, 2)["only"].tolist() == [[1, 2**40]]
