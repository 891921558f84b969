"""All backends alike: any batch, whichever input has it; and each node's values, step by step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import optgraph
from optgraph.api.net import Net
from optgraph.ir.graph import Node
from optgraph.ir.values import Value
from optgraph.onnx.write import to_onnx
from optgraph.run import reference
from optgraph.run.context import Tensors
from tests.support.networks import Builder, inception_a
from tests.support.two_inputs import shifted

BACKENDS = ("torch", "onnxruntime", "interpret")


def close(actual: np.ndarray | torch.Tensor, expected: torch.Tensor) -> None:
    assert tuple(actual.shape) == tuple(expected.shape) and expected.norm() > 0
    assert (torch.as_tensor(actual).double() - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_batch_is_that_of_the_input_that_has_one(backend: str) -> None:
    graph = shifted()
    net = optgraph.compile(to_onnx(graph), backend)
    rng = np.random.default_rng(1)
    a = rng.standard_normal((3, 1, 1), np.float32)
    for batch in (1, 2, 5, 3):
        x = rng.standard_normal((batch, 3, 8, 8), np.float32)
        expected = reference.run(graph, {"a": a, "x": x}, torch.float64)
        for feeds in ({"a": a, "x": x}, {"x": x, "a": a}):
            results = net(feeds)
            assert isinstance(results, dict) and results["y"].shape == (batch, 4, 8, 8)
            for name in ("y", "sum"):
                close(results[name], expected[name])


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_input_has_an_open_batch(backend: str, batch: int) -> None:
    graph = shifted(batch)
    net = optgraph.compile(to_onnx(graph), backend)
    rng = np.random.default_rng(2)
    feeds = {name: rng.standard_normal(value.shape, np.float32) for name, value in net.inputs.items()}
    results, expected = net(feeds), reference.run(graph, feeds, torch.float64)
    assert isinstance(results, dict)
    close(results["y"], expected["y"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_network_of_scalars(backend: str) -> None:
    b = Builder()
    graph = b.graph
    graph.inputs.remove("x")
    s = graph.add_input("s", Value(()))
    net = optgraph.compile(to_onnx(b.done(b.act(s))), backend)
    assert float(np.asarray(net(np.array(2.5, np.float32)))) == 2.5


@pytest.mark.parametrize("backend", BACKENDS)
def test_stepwise_shows_every_node_and_answers_as_a_call(backend: str) -> None:
    """Inception's block has a concat in place, which no launch makes; one output is an input, one is there twice."""
    graph = inception_a()
    graph.outputs |= {"same": graph.outputs["y0"], "given": "x"}
    net: Net = optgraph.compile(to_onnx(graph), backend)
    runtime = net.runtime
    assert runtime.graph is (net.simplified if backend == "onnxruntime" else net.fused)
    x = torch.randn(2, 12, 9, 9, generator=torch.Generator().manual_seed(0))
    expected = {
        value: tensor
        for node, values in reference.stream(runtime.graph, {"x": x}, torch.float64)
        for value, tensor in zip(node.outputs, values, strict=True)
    }
    shown: list[Node] = []

    def see(node: Node, values: Tensors) -> None:
        shown.append(node)
        assert list(values) == list(node.outputs)
        for value, tensor in values.items():
            close(tensor, expected[value])

    results = runtime.stepwise({"x": x}, 2, see)
    assert shown == runtime.graph.nodes()
    answers = runtime({"x": x}, 2)
    assert list(results) == list(answers) == ["y0", "same", "given"]
    for name, answer in answers.items():
        assert torch.equal(results[name], answer)
    close(results["y0"], expected[runtime.graph.outputs["y0"]])
    assert torch.equal(results["given"], x)
