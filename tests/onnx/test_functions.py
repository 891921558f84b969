"""Conv + Relu as calls of a function: fewer nodes, the same model to the checker, to ONNX Runtime and to us."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from optgraph.onnx.functions import call_conv_relu
from optgraph.onnx.read import read
from optgraph.onnx.sessions import session
from optgraph.onnx.write import save_onnx, to_onnx
from tests.support.networks import Builder, inception_a, inception_resnet, kinds, xception


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return session(model.SerializeToString()).run(None, {"x": x})[0]


@pytest.mark.parametrize("build, calls", [(inception_a, 8), (inception_resnet, 8), (xception, 4)])
def test_pairs_become_calls(build, calls: int) -> None:
    graph = build()
    plain, called = to_onnx(graph), to_onnx(graph)
    assert call_conv_relu(called) == calls
    assert len(called.graph.node) == len(plain.graph.node) - calls
    onnx.checker.check_model(called, full_check=True)
    x = np.random.default_rng(0).standard_normal((2, *(int(d) for d in graph.shape("x")[1:]))).astype(np.float32)
    np.testing.assert_allclose(run(called, x), run(plain, x), rtol=1e-5, atol=1e-5)
    assert kinds(read(called)) == kinds(read(plain))


def test_a_conv_that_others_read_or_without_a_bias() -> None:
    b = Builder(channels=4, size=6)
    shared = b.conv(b.x, 3, bias=False)
    lone = b.act(b.conv(b.act(shared), 5, 3, bias=False))
    model = to_onnx(b.done(lone, shared))
    assert call_conv_relu(model) == 1
    assert [n.op_type for n in model.graph.node] == ["Conv", "Relu", "ConvRelu"]
    x = np.random.default_rng(0).standard_normal((1, 4, 6, 6)).astype(np.float32)
    np.testing.assert_allclose(run(model, x), run(to_onnx(b.graph), x), rtol=1e-5, atol=1e-5)


def test_a_saved_file_is_read_back(tmp_path) -> None:
    graph = inception_a()
    plain = save_onnx(graph, tmp_path / "plain.onnx")
    assert save_onnx(graph, tmp_path / "called.onnx", functions=True) == plain - 8
    assert kinds(read(tmp_path / "called.onnx")) == kinds(read(tmp_path / "plain.onnx"))
