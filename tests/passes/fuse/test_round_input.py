"""The rounding of an image to a grid is the stem's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import optgraph
from optgraph.ir.quant import Quant
from optgraph.ir.values import RELU
from optgraph.onnx.sessions import session
from optgraph.onnx.write import to_onnx
from optgraph.ops import Conv, FakeQuantize
from optgraph.passes.fuse import round_input
from optgraph.run import reference
from tests.support.networks import Builder, kinds
from tests.support.quantised import Sketch, quantised
from tests.support.simplify_checks import applied, refusal

GRID = Quant(0.02, -7)


def rounded(b: Builder) -> str:
    return b.graph.add(FakeQuantize(quant=GRID), [b.x], origin=["round"]).output


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (2, 1), (7, 4)])
def test_fires(kernel: int, stride: int) -> None:
    b = Builder(channels=3)
    before = b.done(b.conv(rounded(b), 6, kernel, stride, act=RELU))
    graph, outcome = applied(round_input.run, before)
    (node,) = graph.nodes()
    assert outcome.rewrites == 1 and isinstance(node.op, Conv) and node.op.onto == (GRID,)
    assert node.inputs[0] == b.x and "round" in node.origin
    x = np.random.default_rng(0).normal(size=(2, 3, 9, 9)).astype(np.float32)
    want = reference.run(graph, {"x": x})
    said = session(to_onnx(graph).SerializeToString(), optimize=False).run(None, {"x": x})
    (got,) = want.values()
    np.testing.assert_allclose(said[0], got.numpy(), atol=1e-5)


def _read_twice(b: Builder) -> list[str]:
    x = rounded(b)
    return [b.conv(x, 6, 3, 2), b.pool(x)]


REFUSED: dict[str, tuple[int, Callable[[Builder], list[str]]]] = {
    "needed elsewhere": (3, _read_twice),
    "a 1×1 convolution or": (3, lambda b: [b.conv(rounded(b), 6)]),
    "one of groups": (3, lambda b: [b.depthwise(rounded(b), stride=2)]),
    "has a prologue": (3, lambda b: [b.conv(rounded(b), 6, 3, 2, pre_act=RELU)]),
    "16 input channels": (16, lambda b: [b.conv(rounded(b), 6, 3, 2)]),
    "a number 9 times": (3, lambda b: [b.conv(rounded(b), 6, 3)]),
    "a number 13 times": (3, lambda b: [b.conv(rounded(b), 6, 7, 2)]),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_refuses(reason: str) -> None:
    channels, make = REFUSED[reason]
    b = Builder(channels=channels)
    assert reason in refusal(round_input.run, b.done(*make(b)))


def test_no_rounding_no_match() -> None:
    b = Builder(channels=3)
    graph, outcome = applied(round_input.run, b.done(b.conv(b.x, 6, 3, 2)))
    assert outcome.rewrites == 0 and not outcome.refusals and kinds(graph) == {"Conv": 1}


def stem(folder: Path) -> onnx.ModelProto:
    s = Sketch(channels=3, size=13)
    x = s.node("Relu", s.conv("x", 3, 16, 3, stride=2))
    return quantised(s.model(s.conv(x, 16, 8, 3)), folder)


def test_int8_multiplies_the_integers_of_the_image(tmp_path: Path) -> None:
    """What is stored behind the stem is to the last integer what a launch for the rounding by itself gives."""
    net = optgraph.compile(stem(tmp_path), backend="interpret", dtype="int8")
    plan, x = net.plan(3), np.random.default_rng(1).normal(size=(3, 3, 13, 13)).astype(np.float32)
    assert plan.launches_by_kernel() == {"conv2d": 2}
    first = plan.calls[0]
    assert first.reads["x"].dtype == "float32" and plan.packed[first.weights["weight"].key].dtype == "int8"
    floats, seen = reference.run(net.fused, {"x": x}, keep=plan.grids), []
    ((value, quant),) = plan.grids.items()
    net.runtime.stepwise({"x": torch.from_numpy(x)}, 3, lambda node, values: seen.append(values.get(value)))
    steps = ((seen[0] - floats[value]) / quant.scale).abs().round()
    assert floats[value].std() > 0 and steps.max() <= 1 and (steps > 0).float().mean() <= 1e-3


@pytest.mark.parametrize("dtype", ["fp16", "int8"])
def test_verified_and_saved(dtype: str, tmp_path: Path) -> None:
    stem(tmp_path)
    path, saved = tmp_path / "quantised.onnx", tmp_path / "net.optgraph"
    net = optgraph.compile(path, backend="interpret", dtype=dtype)
    assert [bool(node.op.onto) for node in net.fused.nodes()] == [True, False]
    net.save(saved)
    found = optgraph.verify(saved, "interpret", original=path, batch=3)
    assert found.ok and found.regions_total == 2, found.reason


def test_kept_in_float32(tmp_path: Path) -> None:
    model = stem(tmp_path)
    name = next(node.name for node in model.graph.node if node.op_type == "Conv")
    net = optgraph.compile(model, backend="interpret", dtype="int8", keep_fp32=[name])
    first = net.plan(1).calls[0]
    assert net.plan(1).packed[first.weights["weight"].key].dtype == "float32"
    x = np.random.default_rng(1).normal(size=(1, 3, 13, 13)).astype(np.float32)
    (want,) = reference.run(net.fused, {"x": x}).values()
    assert np.linalg.norm(net(x) - want.numpy()) <= 0.02 * np.linalg.norm(want)
