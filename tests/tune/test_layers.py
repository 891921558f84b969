"""Layers by themselves, and the checks that the GPU tests are made of, in the interpreter on small graphs."""

from __future__ import annotations

import math
import threading

import pytest
import torch

from optgraph.ir.graph import Graph
from optgraph.kernels.frame.sample import Operands
from optgraph.passes import pipeline
from optgraph.plan.lowering import lower
from optgraph.plan.plans import Plans
from optgraph.run.context import Context
from optgraph.run.engine import Engine
from optgraph.tune.layers import Layer, layers
from tests.support.gpu_checks import replay_differs, threads_differ, wrong_layers
from tests.support.networks import Builder, inception_a, xception

CPU = torch.device("cpu")


def fused(graph: Graph) -> Graph:
    pipeline.apply(graph, pipeline.FUSE)
    return graph


def of(graph: Graph, batch: int = 1, dtype: str = "fp32") -> dict[Layer, int]:
    return layers(lower(graph, batch, dtype), graph)


def first(name: str, **arguments: int | str) -> Layer:
    found = of(fused(inception_a()), **arguments)  # type: ignore[arg-type]
    return next(layer for layer in found if layer.name == name)


def test_equal_calls_are_one_layer() -> None:
    b = Builder(channels=16)
    x = b.x
    for _ in range(3):
        x = b.act(b.conv(x, 16, 3))
    found = of(fused(b.done(b.conv(x, 24, 3))))
    # The first reads the model's input, N×C×H×W in memory; the next two are the same; the last has more outputs.
    assert list(found.values()) == [1, 2, 1]
    assert len({layer.key for layer in found}) == 3


def test_a_layer_says_what_it_is() -> None:
    layer = first("conv2d", batch=2)
    assert str(layer).startswith("conv2d x 2×") and "weight 1×" in str(layer) and "out 2×" in str(layer)


@pytest.mark.parametrize("dtype", ["fp32", "tf32", "fp16"])
@pytest.mark.parametrize("build", [inception_a, xception])
def test_kernels_are_right_on_layers_by_themselves(build, dtype) -> None:
    assert wrong_layers(of(fused(build()), 2, dtype), CPU) == []


def test_bounds_follow_the_types_and_the_length_of_the_sums() -> None:
    layer = first("conv2d", dtype="fp32")
    terms = math.prod(layer.sample.arguments["weight"].shape[:-1])
    assert layer.bound == pytest.approx(1e-6 * math.sqrt(terms)) and terms > 9
    bounds = [first("conv2d", dtype=dtype).bound for dtype in ("tf32", "fp16", "bf16")]
    assert bounds == [2e-3, 2e-3, 1.6e-2]


def test_operands_differ_by_seed_only() -> None:
    layer = first("conv2d")
    x, again, other = (layer.operands(CPU, seed).arguments["x"] for seed in (0, 0, 1))
    assert torch.equal(x, again) and not torch.equal(x, other)


def test_what_is_not_written_or_written_elsewhere_is_an_infinite_error() -> None:
    layer = first("conv2d")
    operands = layer.operands(CPU)
    (out,) = operands.results()
    (right,) = operands.expected()
    assert operands.error(lambda: out.copy_(right)) < layer.bound
    assert operands.error(lambda: None) == math.inf
    assert operands.error(lambda: out[:, 1:].copy_(right[:, 1:])) == math.inf
    storage = out._base
    assert storage is not None

    def spill() -> None:
        out.copy_(right)
        storage[-1] = 0.0

    assert operands.error(spill) == math.inf


def test_a_wrong_kernel_is_named_and_hides_no_other(monkeypatch) -> None:
    found = of(fused(inception_a()))
    assert all(layer.bound for layer in found)  # kept: what is broken below cannot be asked
    launch = Operands.launch

    def broken(self: Operands, tile: object = None) -> object:
        if self.kernel.name == "conv2d":
            raise RuntimeError("out of resource")
        return (lambda: None) if self.kernel.name == "pool" else launch(self, tile)

    monkeypatch.setattr(Operands, "launch", broken)
    lines = wrong_layers(found, CPU)
    assert len(lines) == sum(layer.name in ("conv2d", "pool") for layer in found) < len(found)
    assert any("RuntimeError" in line for line in lines) and any("off by inf" in line for line in lines)


# ---- whole engines


def engine(graph: Graph) -> Engine:
    return Engine(Plans(fused(graph), "fp32"), CPU)


def test_a_replay_that_computes_something_else_is_found(monkeypatch) -> None:
    run = engine(xception())
    shape = [2, *(int(d) for d in xception().shape("x")[1:])]
    images = torch.randn(shape), torch.randn(shape)
    assert replay_differs(run, *images) == []
    assert replay_differs(run, images[0], images[0]) != []  # a replay that did nothing would look like this
    monkeypatch.setattr(Context, "steps", lambda self: iter(()))
    assert replay_differs(run, *images) != []


def test_threads_that_share_a_context_are_found(monkeypatch) -> None:
    run = engine(xception())
    images = [torch.randn(1, *(int(d) for d in xception().shape("x")[1:])) for _ in range(4)]
    assert threads_differ(run, images, rounds=1) == []
    answers = iter(range(1000))
    monkeypatch.setattr(Engine, "__call__", lambda self, feeds, batch: {"y": torch.tensor(next(answers))})
    assert len(threads_differ(run, images, rounds=1)) == len(images)


def test_a_thread_that_fails_is_found(monkeypatch) -> None:
    run, call = engine(xception()), Engine.__call__
    images = [torch.randn(1, *(int(d) for d in xception().shape("x")[1:])) for _ in range(2)]

    def broken(self: Engine, feeds: dict[str, torch.Tensor], batch: int) -> dict[str, torch.Tensor]:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("out of memory")
        return call(self, feeds, batch)

    monkeypatch.setattr(Engine, "__call__", broken)
    assert threads_differ(run, images, rounds=1) == [f"image {i}: RuntimeError: out of memory" for i in (0, 1)]
