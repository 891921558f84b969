"""A small network through the runtime, every launch emulated, in the plan's order and in others that streams allow."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from optgraph.base.devices import SM_80, SM_90, Target
from optgraph.compare.oracle import BOUNDS, distance
from optgraph.ir.graph import Graph
from optgraph.passes import pipeline
from optgraph.plan.plans import Plans
from optgraph.run import reference
from tests.emulator.machine import Machine
from tests.emulator.networks import counts, kernels, prepared, reordered
from tests.emulator.schedule import LATE
from tests.support.networks import Builder
from tests.support.streams import Device


def network() -> Graph:
    """Branches that are joined, a separable convolution with a residual, a deep 3×3 convolution, a pool."""
    b = Builder(channels=64, size=8)
    x = b.act(b.conv(b.x, 64))
    branches = (b.conv(x, 32), b.conv(b.act(b.conv(x, 48)), 32, 3), b.conv(b.pool(x), 64))
    x = b.act(b.conv(b.concat(*branches), 128))
    x = b.add(b.conv(b.depthwise(x), 128), x)
    return b.done(b.pool(b.act(b.conv(x, 64, 3)), mode="max", stride=2))


@pytest.mark.parametrize("target", [SM_80, SM_90], ids=str)
def test_a_network(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = network()
    x = torch.randn(1, 64, 8, 8, generator=torch.Generator().manual_seed(0))
    (expected,) = reference.run(graph, {"x": x}, torch.float64).values()
    pipeline.apply(graph, pipeline.FUSE)
    plans = Plans(graph, "fp16")
    found = counts(plans, 1, target)
    assert found["split"] > 0 and (found["tma"] > 0) == (target == SM_90)
    machine = Machine(target, kernels(plans, 1, target), LATE)
    device = Device(monkeypatch)
    with prepared(plans, 1, machine) as context:
        context.load({"x": x})
        context.run()
        (result,) = context.results().values()
        assert distance(result, expected)[0] <= BOUNDS["fp16"]
        schedule = context.plan.schedule
        assert schedule.streams > 1
        # One after the other on one stream, all but the first may begin early; in a graph, those that form a chain.
        assert machine.early() == (len(schedule.stream) - 1) * (target == SM_90)
        for seed in range(2):
            before = machine.early()
            order, (again,) = reordered(context, device, seed)
            assert order != sorted(order)
            assert torch.equal(result, again)
            assert machine.early() - before == sum(schedule.chained) * (target == SM_90) != (target == SM_80)
        hasty = replace(context.plan.schedule, waits=((),) * len(context.plan.calls))
        assert any(not torch.equal(result, reordered(context, device, seed, hasty)[1][0]) for seed in range(4))
    assert machine.kernels.compiled == 0
    assert sum(machine.cuda.counts.values()) >= 4 * len(plans.get(1, target).calls)
