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
from optgraph.base.devices import BEST, H100, PREDICTED, SM_80, SM_90, WORST, Target
from optgraph.base.errors import InputError
from optgraph.cost.machine_code import Instruction, Loop
from optgraph.cost.predict import Predicted, Prediction, predict, predictable
from optgraph.cost.walk import Machine
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


def test_a_launch_that_does_next_to_nothing_is_mostly_waited_for() -> None:
    launch = one(convolution(16, 16, size=4))
    assert BEST.early < launch.time.low < 3 * BEST.early
    assert WORST.early < launch.time.high < 4 * WORST.early
    assert one(convolution(16, 16, size=4), target=SM_80).time.low > BEST.launch, "no launch begins early there"


def test_a_big_pointwise_convolution_of_few_channels_waits_for_memory() -> None:
    launch = one(convolution(64, 256, size=112), batch=64)
    seconds = 64 * 112 * 112 * (64 + 256) * 2 / 3.35e12
    assert launch.bound == "memory"
    assert launch.ideal == pytest.approx(seconds / 0.9, rel=0.01)
    assert seconds < launch.time.low < 1.2 * seconds and launch.time.high < 1.5 * seconds


def test_a_big_convolution_of_many_channels_takes_what_the_tensor_cores_do() -> None:
    launch = one(convolution(512, 512, size=32, kernel=3), batch=64, target=SM_80)
    seconds = 2 * 64 * 32 * 32 * 512 * 512 * 9 / 312e12
    assert launch.ideal == pytest.approx(seconds / 0.7)
    assert seconds < launch.time.low < launch.time.high < 4 * seconds


@pytest.mark.parametrize(("dtype", "slower"), [("tf32", 2), ("fp32", 16)])
def test_products_of_wider_types_are_slower(dtype: str, slower: float) -> None:
    graph = convolution(512, 512, size=32, kernel=3)
    half, wide = (one(graph, 64, dtype, SM_80) for dtype in ("fp16", dtype))
    assert wide.ideal == pytest.approx(slower * half.ideal)
    assert wide.time.low > 0.6 * slower * half.time.low


def test_few_programs_leave_sms_idle() -> None:
    launch = one(convolution(768, 64, size=8, kernel=3))
    assert launch.cost.programs < H100.sms
    assert launch.time.low - BEST.early > 3 * launch.ideal
    assert launch.share.low < launch.time.low - BEST.early, "the idle SMs may do something else"
    wide = replace(H100, sms=4 * H100.sms, flops={"fp16": 4 * 989e12, "fp32": 4 * 67e12})
    wider = one(convolution(768, 64, size=8, kernel=3), device=wide)
    assert wider.time.middle == pytest.approx(launch.time.middle, rel=0.3)


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
    once = narrow.cost.work.flops["depthwise"] / 19.5e12
    product = wide.cost.work.flops["weight"] / 312e12
    assert wide.time.low > product + 6 * once
    assert wide.bound in ("instructions", "chain")


def test_a_pool_repeated_for_every_block_of_columns_takes_time_but_is_no_work() -> None:
    def pooled(columns: int) -> Graph:
        b = Builder(channels=512, size=32)
        x = b.conv(b.x, 512)
        op = ops.PooledPointwise(kernel=(3, 3), pads=(1, 1, 1, 1))
        return b.done(b.graph.add(op, (x, b.constant(columns, 512, 1, 1))).output)

    narrow, wide = (one(pooled(columns), batch=32, target=SM_80) for columns in (256, 2048))
    assert list(narrow.cost.work.flops) == ["weight"]
    once = 2 * 32 * 32**2 * 512 * 9 / 19.5e12
    assert wide.time.low > wide.cost.work.flops["weight"] / 312e12 + 6 * once
    assert narrow.time.low > BEST.launch + once


def test_a_depthwise_convolution_runs_on_the_cuda_cores() -> None:
    b = Builder(channels=256, size=32)
    launch = one(b.done(b.depthwise(b.conv(b.x, 256), kernel=7)), batch=32, target=SM_80)
    assert launch.cost.call.name == "depthwise" and launch.bound == "instructions"
    assert launch.time.low - BEST.launch >= 2 * 32 * 32**2 * 256 * 49 / 19.5e12


def test_a_compiled_kernel_is_asked() -> None:
    wait = Instruction(0, "LDG.E", writes=("R1",)), Instruction(16, "FADD", reads=("R1",))
    slow = Machine(Loop(wait * 1000), warps=4, resident=1)
    graph = convolution(64, 64, size=8)
    plan = lower(graph, 1, "fp16", SM_90)
    found = predict(plan, Shapes(graph.constants), known=lambda launch: slow if launch.tile.block_n == 32 else None)
    assert {launch.compiled for launch in found.launches} == {any(launch.compiled for launch in found.launches)}
    asked = [launch for launch in found.launches if launch.compiled]
    assert asked and all(launch.bound == "chain" and launch.time.low > 1000 * BEST.load / 1.755e9 for launch in asked)


# ---- launches together


def branches(size: int, count: int) -> Graph:
    b = Builder(channels=64, size=size)
    x = b.conv(b.x, 64)
    return b.done(*(b.conv(x, 64, kernel=3) for _ in range(count)))


def test_small_branches_run_together_and_big_ones_share_the_machine() -> None:
    small = predicted(branches(size=8, count=4))
    stem, *rest = small.launches
    for end in ("low", "high"):
        longest = max(getattr(launch.time, end) for launch in rest)
        assert getattr(small.overlapped, end) == pytest.approx(getattr(stem.time, end) + longest, rel=0.05)
        together = getattr(stem.time, end) + sum(getattr(launch.time, end) for launch in rest)
        assert getattr(small.sequential, end) == pytest.approx(together)
    big = predicted(branches(size=64, count=4), batch=32)
    assert 0.75 * big.sequential.low < big.overlapped.low < big.sequential.low


@pytest.mark.parametrize("target", PREDICTED, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str, target: Target) -> None:
    graph = network(name)
    weights = Shapes(graph.constants)
    plans = [lower(graph, batch, "fp16", target) for batch in (1, 8, 64, 128)]
    found = [predict(plan, weights) for plan in plans]
    per_image = [p.overlapped.middle / plan.batch for p, plan in zip(found, plans, strict=True)]
    assert per_image == sorted(per_image, reverse=True), "a bigger batch costs less an image"
    for plan, p in zip(plans, found, strict=True):
        assert len(p.launches) == len(plan.calls)
        assert p.overlapped.low < p.overlapped.high
        for end in range(2):
            assert p.overlapped[end] <= p.sequential[end] * (1 + 1e-9)
        assert p.roofline < p.overlapped.high
        for launch in p.launches:
            assert launch.time.low < launch.time.high and launch.share.low <= launch.share.high
            assert launch.cost.work.moved / target.device.memory < launch.time.low
    waiting = [[launch.bound for launch in p.launches].count("latency") for p in found]
    assert waiting[0] >= waiting[-1]


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
    with pytest.raises(InputError, match="no prediction for target 'sm_70': use sm_90, sm_80, sm_89, sm_86"):
        predictable("sm_70")


def test_the_model_needs_no_triton() -> None:
    code = (
        "import sys\nfrom tests.support.networks import inception_a\nfrom optgraph.cost.predict import predict\n"
        "from optgraph.plan.plans import Plans\nfrom optgraph.base.devices import SM_90\n"
        "plans = Plans(inception_a(), 'fp16')\nassert predict(plans.get(1, SM_90), plans.shapes).sequential.low > 0\n"
        "print({'triton'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
