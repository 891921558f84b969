"""The cost model: never faster than the machine, and slower for the reasons it should be."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from optgraph import ops
from optgraph.base.devices import H100, PREDICTED, SM_80, SM_90, Target
from optgraph.base.errors import InputError
from optgraph.cost.predict import LATENCY, Predicted, Prediction, predict, predictable
from optgraph.ir.graph import Graph
from optgraph.onnx import read
from optgraph.passes import pipeline
from optgraph.plan.buffers import dry_launches
from optgraph.plan.lowering import lower
from optgraph.plan.weights import Shapes
from tests.support.networks import Builder
from tests.support.paths import GRAPHS, ROOT

NETWORKS = ("inception_v3", "xception", "inception_resnet_v2", "resnet50")


@cache
def network(name: str) -> Graph:
    graph = read.read(GRAPHS / f"torch_{name}.onnx", allow_stripped=True)
    pipeline.apply(graph, pipeline.SIMPLIFY + pipeline.FUSE)
    return graph


def predicted(graph: Graph, batch: int = 1, dtype: str = "fp16", target: Target = SM_90, device=None) -> Prediction:
    return predict(lower(graph, batch, dtype, target), Shapes(graph.constants), device)


def one(graph: Graph, batch: int = 1, dtype: str = "fp16", target: Target = SM_90, device=None) -> Predicted:
    """The last launch."""
    return predicted(graph, batch, dtype, target, device).launches[-1]


def convolution(cin: int, cout: int, size: int, kernel: int = 1) -> Graph:
    b = Builder(channels=cin, size=size)
    return b.done(b.conv(b.conv(b.x, cin), cout, kernel))


# ---- one launch


def test_a_launch_that_does_next_to_nothing_takes_the_latency() -> None:
    launch = one(convolution(16, 16, size=4))
    assert launch.bound == "latency"
    assert LATENCY < launch.time < 1.2 * LATENCY


def test_a_big_pointwise_convolution_of_few_channels_waits_for_memory() -> None:
    launch = one(convolution(32, 32, size=112), batch=64)
    seconds = 64 * 112 * 112 * (32 + 32) * 2 / (0.9 * 3.35e12)
    assert launch.bound == "bytes"
    assert launch.ideal == pytest.approx(seconds, rel=0.01)
    assert launch.time == pytest.approx(seconds + LATENCY, rel=0.1)


def test_a_big_convolution_of_many_channels_waits_for_the_products() -> None:
    launch = one(convolution(512, 512, size=32, kernel=3), batch=64, target=SM_80)
    seconds = 2 * 64 * 32 * 32 * 512 * 512 * 9 / (0.7 * 312e12)
    assert launch.bound == "flops"
    assert launch.ideal == pytest.approx(seconds)
    assert seconds < launch.time < 1.2 * seconds


@pytest.mark.parametrize(("dtype", "slower"), [("tf32", 2), ("fp32", 16)])
def test_products_of_wider_types_are_slower(dtype: str, slower: float) -> None:
    graph = convolution(512, 512, size=32, kernel=3)
    half, wide = (one(graph, 64, dtype, SM_80) for dtype in ("fp16", dtype))
    assert wide.ideal == pytest.approx(slower * half.ideal)
    assert wide.time > 0.9 * slower * half.time


def test_few_programs_leave_sms_idle() -> None:
    launch = one(convolution(768, 64, size=8, kernel=3))
    assert launch.cost.programs < H100.sms
    assert launch.time - LATENCY > 3 * launch.ideal
    assert launch.share < launch.time - LATENCY, "the idle SMs may do something else"
    wide = replace(H100, sms=4 * H100.sms, l2=4 * H100.l2, flops={"fp16": 4 * 989e12, "fp32": 4 * 67e12})
    assert one(convolution(768, 64, size=8, kernel=3), device=wide).time == pytest.approx(launch.time, rel=0.3)


def separable(channels: int, columns: int) -> Graph:
    b = Builder(channels=channels, size=32)
    x = b.conv(b.x, channels)
    weights = b.constant(channels, 1, 3, 3), "", b.constant(columns, channels, 1, 1)
    return b.done(b.graph.add(ops.Separable(kernel=(3, 3), pads=(1, 1, 1, 1)), (x, *weights)).output)


def test_a_depthwise_repeated_for_every_block_of_columns_takes_time_but_is_no_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("optgraph.kernels.separable.pays", lambda *_, **__: True)
    narrow, wide = (one(separable(512, columns), batch=32, target=SM_80) for columns in (256, 2048))
    assert narrow.cost.work.flops["depthwise"] == wide.cost.work.flops["depthwise"] == 2 * 32 * 32**2 * 512 * 9
    once = narrow.cost.work.flops["depthwise"] / (0.7 * 19.5e12)
    product = wide.cost.work.flops["weight"] / (0.7 * 312e12)
    assert wide.time > product + 6 * once
    assert wide.bound == "flops"


def test_a_pool_repeated_for_every_block_of_columns_takes_time_but_is_no_work() -> None:
    def pooled(columns: int) -> Graph:
        b = Builder(channels=512, size=32)
        x = b.conv(b.x, 512)
        op = ops.PooledPointwise(kernel=(3, 3), pads=(1, 1, 1, 1))
        return b.done(b.graph.add(op, (x, b.constant(columns, 512, 1, 1))).output)

    narrow, wide = (one(pooled(columns), batch=32, target=SM_80) for columns in (256, 2048))
    assert list(narrow.cost.work.flops) == ["weight"]
    once = 2 * 32 * 32**2 * 512 * 9 / (0.7 * 19.5e12)
    assert wide.time > wide.cost.work.flops["weight"] / (0.7 * 312e12) + 6 * once
    assert narrow.time > LATENCY + once


def test_a_depthwise_convolution_runs_on_the_cuda_cores() -> None:
    b = Builder(channels=256, size=32)
    launch = one(b.done(b.depthwise(b.conv(b.x, 256), kernel=7)), batch=32, target=SM_80)
    assert launch.cost.call.name == "depthwise" and launch.bound == "flops"
    assert launch.time - LATENCY >= 2 * 32 * 32**2 * 256 * 49 / (0.7 * 19.5e12)


# ---- launches together


def branches(size: int, count: int) -> Graph:
    b = Builder(channels=64, size=size)
    x = b.conv(b.x, 64)
    return b.done(*(b.conv(x, 64, kernel=3) for _ in range(count)))


def test_small_branches_run_together_and_big_ones_share_the_machine() -> None:
    small = predicted(branches(size=8, count=4))
    stem, branch = small.launches[:2]
    assert small.overlapped == pytest.approx(stem.time + branch.time, rel=0.05)
    assert small.sequential == pytest.approx(stem.time + 4 * branch.time)
    big = predicted(branches(size=64, count=4), batch=32)
    assert 0.9 * big.sequential < big.overlapped < big.sequential


@pytest.mark.parametrize("target", PREDICTED, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str, target: Target) -> None:
    graph = network(name)
    weights = Shapes(graph.constants)
    plans = [lower(graph, batch, "fp16", target) for batch in (1, 8, 64, 128)]
    found = [predict(plan, weights) for plan in plans]
    per_image = [p.overlapped / plan.batch for p, plan in zip(found, plans, strict=True)]
    assert per_image == sorted(per_image, reverse=True), "a bigger batch costs less an image"
    for plan, p in zip(plans, found, strict=True):
        assert len(p.launches) == len(plan.calls)
        assert p.roofline + LATENCY * plan.waves <= p.overlapped * (1 + 1e-9)
        assert p.overlapped <= p.sequential * (1 + 1e-9)
        for launch in p.launches:
            assert LATENCY + launch.ideal <= launch.time and launch.ideal <= launch.share * (1 + 1e-9)
            assert (launch.bound == "latency") == (launch.time <= 2 * LATENCY)
    bounds = [[launch.bound for launch in p.launches].count("latency") for p in found]
    assert bounds[0] > bounds[-1]


@pytest.mark.parametrize(("name", "images"), [("inception_v3", 45_500), ("xception", 25_000)])
def test_the_roofline_is_that_of_a_count_by_hand(name: str, images: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images a second of an H100 in fp16, counted before there was a compiler, every separable as one launch."""
    monkeypatch.setattr("optgraph.kernels.separable.pays", lambda *_, **__: True)
    assert 128 / predicted(network(name), 128).roofline == pytest.approx(images, rel=0.06)


@pytest.mark.parametrize("path", sorted(GRAPHS.glob("*.onnx")), ids=lambda path: path.stem)
def test_programs_are_those_of_the_grid(path: Path) -> None:
    """Of every launch of every graph, at the batch sizes of the tables: the prediction asks the launch."""
    graph = read.read(path, allow_stripped=True)
    pipeline.apply(graph, pipeline.SIMPLIFY + pipeline.FUSE)
    weights = Shapes(graph.constants)
    for batch in (1, 8, 64, 128):
        plan = lower(graph, batch, "fp16", SM_90)
        grids = [launch and math.prod(launch.grid) for launch in dry_launches(plan, weights)]
        predicted = [launch.cost.programs for launch in predict(plan, weights).launches]
        assert predicted == [count or 1 for count in grids]
        assert len(predicted) == len(plan.calls) and sum(count or 0 for count in grids) > len(grids)


def test_an_unknown_target_is_an_input_error() -> None:
    assert predictable("sm_80") == SM_80
    with pytest.raises(InputError, match="no prediction for target 'sm_70': use sm_90 or sm_80"):
        predictable("sm_70")


def test_the_model_needs_no_triton() -> None:
    code = (
        "import sys\nfrom tests.support.networks import inception_a\nfrom optgraph.cost.predict import predict\n"
        "from optgraph.plan.plans import Plans\nfrom optgraph.base.devices import SM_90\n"
        "plans = Plans(inception_a(), 'fp16')\nassert predict(plans.get(1, SM_90), plans.shapes).sequential > 0\n"
        "print({'triton'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
