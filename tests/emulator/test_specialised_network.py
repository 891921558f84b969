"""Small networks whose kernels are warp-specialised: separable convolutions, as `optgraph tune` may find them to be
fastest, and convolutions whose taps read shared memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
import torch

from optgraph.base.devices import SM_90
from optgraph.compare.oracle import BOUNDS, distance
from optgraph.ir.graph import Graph
from optgraph.kernels.frame import halos, specialised, tuned
from optgraph.kernels.frame.choice import choose
from optgraph.onnx.read import read
from optgraph.onnx.write import to_onnx
from optgraph.passes import pipeline
from optgraph.plan.plans import Plans
from optgraph.run import reference
from tests.emulator.machine import Machine
from tests.emulator.networks import kernels, launches, prepared
from tests.emulator.schedule import HASTY
from tests.support.networks import Builder
from tests.support.quantised import quantised


def network() -> Graph:
    """As in Xception: activations before separable convolutions, and a residual."""
    b = Builder(channels=64, size=8)
    x = b.act(b.conv(b.x, 64))
    x = b.add(b.conv(b.depthwise(b.act(b.conv(b.depthwise(b.act(x)), 64))), 64), x)
    return b.done(b.conv(b.depthwise(b.act(x)), 96))


@pytest.fixture
def tuned_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Records, made by hand, that name the specialised tile for every separable convolution of the network."""
    graph = network()
    pipeline.apply(graph, pipeline.FUSE)
    records = {}
    for launch in launches(Plans(graph, "fp16"), 1, SM_90):
        if launch.kernel == "separable":
            assert launch.problem
            *_, tile = specialised.tiles(launch.problem.run, SM_90)  # type: ignore[attr-defined]
            records[tuned.key(launch.problem)] = {"tile": tuned.record(tile)}
    assert records
    tuned.path(SM_90, tmp_path).write_text(json.dumps({"records": records}))
    monkeypatch.setenv("OPTGRAPH_TUNED", str(tmp_path))
    choose.cache_clear()
    yield
    choose.cache_clear()


def test_a_network(tuned_tiles: None) -> None:
    graph = network()
    x = torch.randn(1, 64, 8, 8, generator=torch.Generator().manual_seed(0))
    (expected,) = reference.run(graph, {"x": x}, torch.float64).values()
    pipeline.apply(graph, pipeline.FUSE)
    plans = Plans(graph, "fp16")
    found = [launch for launch in launches(plans, 1, SM_90) if launch.tile.producers]
    assert len(found) == 3 and all(launch.code.name == "separable_specialised" for launch in found)
    machine = Machine(SM_90, kernels(plans, 1, SM_90), HASTY)
    with prepared(plans, 1, machine) as context:
        context.load({"x": x})
        context.run()
        (result,) = context.results().values()
    assert distance(result, expected)[0] <= BOUNDS["fp16"]
    assert machine.kernels.compiled == 0


def branching(columns: int) -> Graph:
    """Convolutions along both axes, a residual, a stride, and branches that are slices of one buffer."""
    b = Builder(channels=48, size=5)
    x = b.act(b.conv(b.x, 64))
    y = b.act(b.add(b.conv(b.act(b.conv(x, columns, (1, 3))), 64, (3, 1)), x))
    z = b.concat(b.act(b.conv(y, columns, 3, stride=2)), b.conv(y, columns, (5, 3), stride=2), b.conv(y, 64, stride=2))
    return b.done(b.act(b.conv(z, 64, 3)))


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Halos where they are not predicted to be faster, too."""
    monkeypatch.setattr(halos, "MARGIN", 1e-3)
    choose.cache_clear()
    yield
    choose.cache_clear()


def test_a_network_of_halos(everywhere: None) -> None:
    """Kernels for 64 images run 23, of which the last block of each is not full."""
    graph = branching(columns=72)
    x = torch.randn(23, 48, 5, 5, generator=torch.Generator().manual_seed(0))
    expected = reference.run(graph, {"x": x}, torch.float64)
    pipeline.apply(graph, pipeline.FUSE)
    plans = Plans(graph, "fp16")
    planned = [launch for launch in launches(plans, 64, SM_90) if launch.code.name == "conv2d_specialised"]
    assert {(launch.constants["DOWN"], launch.constants["STRIDE"]) for launch in planned} == {
        (False, 1),
        (True, 1),
        (False, 2),
        (True, 2),
    }
    machine = Machine(SM_90, kernels(plans, 64, SM_90), HASTY)
    with prepared(plans, 23, machine) as context:
        context.load({"x": x})
        context.run()
        for name, result in context.results().items():
            assert distance(result, expected[name])[0] <= BOUNDS["fp16"]
    assert machine.kernels.compiled == 0


def test_a_network_of_halos_in_int8(everywhere: None, tmp_path: Path) -> None:
    """Convolutions of both axes and strides, whose grids have zeros of their own: every integer but for ties."""
    model = quantised(to_onnx(branching(columns=80)), tmp_path)
    graph = read(model.SerializeToString())
    x = torch.randn(23, 48, 5, 5, generator=torch.Generator().manual_seed(0))
    expected = reference.run(graph, {"x": x}, torch.float64)
    pipeline.apply(graph, pipeline.SIMPLIFY + pipeline.FUSE)
    plans = Plans(graph, "int8")
    planned = [launch for launch in launches(plans, 64, SM_90) if launch.code.name == "conv2d_specialised"]
    assert all(launch.arguments["weight"].tensor.dtype == torch.int8 for launch in planned)
    assert {(launch.constants["DOWN"], launch.constants["STRIDE"]) for launch in planned} == set(
        product((False, True), (1, 2))
    )
    assert any(launch.constants["KINDS"] for launch in planned)
    machine = Machine(SM_90, kernels(plans, 64, SM_90), HASTY)
    with prepared(plans, 23, machine) as context:
        context.load({"x": x})
        context.run()
        for name, result in context.results().items():
            want = expected[name]
            levels = torch.tensor(sorted(set(want.flatten().tolist())), dtype=torch.float64)
            step = levels.diff().min()
            off = ((result.double() - want) / step).abs()
            assert len(levels) > 100 and off.max() < 1.5 and (off > 0.5).double().mean() < 1e-3
    assert machine.kernels.compiled == 0
