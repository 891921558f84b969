"""The tests of tests/gpu, as far as they go without a GPU: on one that is not there, and small networks."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import optgraph
from optgraph.api.net import Net
from optgraph.compare.oracle import BOUNDS, NOISE_FACTOR, NOISE_LIMIT
from optgraph.compare.verify import verify_net
from optgraph.ir.graph import Graph
from optgraph.kernels.pad import PAD
from optgraph.kernels.pointwise import POINTWISE
from optgraph.onnx.write import to_onnx
from optgraph.run.engine import Held
from tests.gpu import test_networks as networks
from tests.support.fake_gpu import FakeGpu
from tests.support.gpu_checks import bound_differs, predicted, wrong_samples
from tests.support.networks import Builder, xception
from tests.support.paths import ROOT
from tests.support.sabotage import sabotaged, saved

CPU = torch.device("cpu")
MODULES = sorted(path.stem for path in (ROOT / "tests" / "gpu").glob("test_*.py"))


@pytest.mark.parametrize("name", MODULES)
def test_they_can_be_imported_and_ask_for_a_gpu(name: str) -> None:
    module: ModuleType = importlib.import_module(f"tests.gpu.{name}")
    assert module.pytestmark.name == "gpu" and any(what.startswith("test_") for what in vars(module))


def small() -> Graph:
    b = Builder(channels=4, size=5)
    return b.done(b.conv(b.act(b.conv(b.x, 5, 3)), 3))


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small one in place of the three, on a GPU that is not there."""
    FakeGpu(monkeypatch)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    monkeypatch.setattr(networks, "random_images", images)
    yield saved(small(), tmp_path)


def images(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 4, 5, 5, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_agreement(dtype: str, network: Path) -> None:
    networks.test_agrees_with_onnx_runtime_region_by_region(network, dtype)


def test_a_wrong_network_is_found(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = sabotaged(network, "triton", 0)
    monkeypatch.setattr(optgraph, "compile", lambda *given, **options: broken)
    with pytest.raises(AssertionError, match="the first wrong region"):
        networks.test_agrees_with_onnx_runtime_region_by_region(network, "fp32")


def test_replays(network: Path) -> None:
    networks.test_a_replay_is_what_the_launches_are_one_by_one(network, 2)


def test_bound_buffers(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    networks.test_bound_buffers_are_what_calls_give(network)
    net, (first, second) = optgraph.compile(network, "triton"), (images(1, seed) for seed in (1, 2))
    monkeypatch.setattr(Held, "run", lambda self, feeds: None)
    ways = ["first run", "replay", "other stream", "caller's graph"]
    assert bound_differs(net, first, second) == [f"{way}: y0" for way in ways]
    assert bound_differs(net, first, first)[0] == "y0: the same for both images"


def test_threads(network: Path) -> None:
    networks.test_two_threads_on_one_net(network)


# ---- samples


@pytest.mark.parametrize(("kernel", "dtype"), [(PAD, "fp16"), (POINTWISE, "tf32")])
def test_samples(kernel: Any, dtype: str) -> None:
    few = replace(kernel, samples=lambda: list(kernel.samples())[:5])
    assert wrong_samples(few, dtype, CPU, every=2) == (3, [])


def test_a_wrong_sample_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.gpu_checks.binder", lambda launches, device: lambda launch: lambda: None)
    tried, wrong = wrong_samples(PAD, "fp16", CPU)
    assert tried == len(wrong) > 1 and f"off by {math.inf}" in wrong[0]


def test_only_what_multiplies_has_samples_in_tf32() -> None:
    assert wrong_samples(PAD, "tf32", CPU) == (0, [])


# ---- margins


def test_what_is_allowed_is_twice_what_our_own_arithmetic_predicts(tmp_path: Path) -> None:
    path = saved(xception(), tmp_path)
    net: Net = optgraph.compile(path, "interpret", "fp16")
    x = torch.randn(2, *(int(d) for d in xception().shape("x")[1:]))
    found = verify_net(net, path)
    assert found.ok and found.bound == max(BOUNDS["fp16"], min(NOISE_FACTOR, NOISE_LIMIT) * found.noise)
    assert BOUNDS["fp16"] <= predicted(net, x) < 10 * BOUNDS["fp16"]
    other = optgraph.compile(to_onnx(xception()), "torch")(x)
    ours = net(x)
    assert isinstance(ours, torch.Tensor) and isinstance(other, torch.Tensor)
    assert 0 < float((ours - other).norm() / other.norm()) < predicted(net, x)
