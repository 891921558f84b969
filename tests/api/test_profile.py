"""Where the time of a run goes: each kernel's to its region, however ONNX Runtime names it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

import optgraph
from optgraph.api.net import Net
from optgraph.api.profile import Profile, Span, profile, regions_by_name, spans_of
from optgraph.base.errors import InputError
from optgraph.onnx.write import to_onnx
from tests.support.cli_models import classifier
from tests.support.fake_gpu import FakeGpu
from tests.support.gpu_clock import GpuClock
from tests.support.networks import inception_a


def test_medians_by_region_the_longest_first() -> None:
    runs = tuple(
        (
            Span("a", "Conv", "a", 0.0, first),
            Span("a2", "Conv", "a", first, 1.0),
            Span("r", "Reorder", "", first + 1, 0.5),
        )
        for first in (5.0, 1.0, 9.0)
    )
    found = Profile("torch", 1, (*runs, (Span("b", "Pool", "b", 0.0, 7.0),)))
    assert found.by_region() == {"a": 4.0, "": 0.5, "b": 0.0}
    assert found.typical() == runs[0]  # of 2.5, 6.5, 7 and 10.5 seconds


def event(name: str, ts: int, dur: int, kind: str = "Conv", cat: str = "Node", **args: str) -> dict:
    return {"name": name, "cat": cat, "ts": ts, "dur": dur, "args": {"op_name": kind, **args}}


def test_kernels_are_known_by_the_name_of_a_node_or_of_a_value() -> None:
    events = [
        event("model_run", 1000, 500, cat="Session"),
        event("stem_kernel_time", 1010, 100, mem_bytes_in_use="64"),
        event("stem_fence_before", 1005, 1),
        event("ReorderOutput_token_3_kernel_time", 1220, 30, "ReorderOutput"),
        event("stem_output_nchwc_kernel_time", 1110, 100),
        event("model_run", 2000, 100, cat="Session"),
        event("stem_output_kernel_time", 2050, 10),
    ]
    first, second = spans_of(events, {"stem": "region", "stem_output": "region"})
    assert [(span.name, span.region) for span in first] == [
        ("stem", "region"),
        ("stem_output_nchwc", "region"),
        ("ReorderOutput_token_3", ""),
    ]
    assert first[0].start == pytest.approx(10e-6) and first[0].seconds == pytest.approx(100e-6)
    assert (first[0].held, first[1].held) == (64, None)
    assert [span.start for span in second] == [pytest.approx(50e-6)]


@pytest.mark.parametrize("backend", ["onnxruntime", "torch", "interpret"])
def test_all_time_is_of_a_region(backend: str) -> None:
    net = optgraph.compile(classifier(width=32), backend)
    found = profile(net, batch=2, repeats=2, threads=1)
    assert (found.backend, found.batch, len(found.runs)) == (backend, 2, 2)
    times = found.by_region()
    regions = {node.name for node in net.fused.nodes()}
    assert set(times) - {""} <= regions and times["/stem/Conv"] > 0
    assert times.get("", 0.0) < 0.5 * sum(times.values())
    for run in found.runs:
        assert all(a.start + a.seconds <= b.start + 1e-5 for a, b in itertools.pairwise(run))
        assert {span.region for span in run} >= {"/stem/Conv", "/logits/Gemm"}


def test_every_node_that_is_exported_has_its_region() -> None:
    net = optgraph.compile(classifier(), "onnxruntime")
    found = regions_by_name(net)
    (merged,) = [node.name for node in net.fused.nodes() if node.op.kind == "MergedPointwise"]
    assert found["/left/Conv"] == found["/right.relu/Relu"] == merged
    assert found["/act/Relu"] == found["/stem/Conv"] == "/stem/Conv"
    assert all(found[node.name] for node in net.simplified.nodes())


def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> tuple[Net, GpuClock, dict[str, float]]:
    """A network with branches on a GPU that takes so long for a launch of each kernel, in seconds; in a graph, a fifth
    less."""
    took = {"conv2d": 6e-6, "pool": 2e-6, "pooled_pointwise": 4e-6, "pointwise": 3e-6}

    def compute(launch: Any) -> None:
        by_itself = gpu.done[-1] == "launch"
        clock.give(took[launch.kernel] * (1.0 if by_itself else 0.8), 20e-6 if by_itself else 0.0)

    gpu = FakeGpu(monkeypatch, compute)
    clock = GpuClock(monkeypatch)
    return optgraph.compile(to_onnx(inception_a()), "triton"), clock, took


def test_on_a_gpu_each_launch_by_itself_and_the_graph_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    net, clock, took = on_a_gpu(monkeypatch)
    found = profile(net, batch=2, repeats=3)
    plan = net.plan(2)
    assert found.backend == "triton" and found.ahead and len(found.runs) == 3 and clock.ranges == []
    assert plan.schedule.streams > 1 and any(plan.schedule.waits)
    for run in found.runs:
        assert [(span.region, span.kind) for span in run] == [(call.node, call.name) for call in plan.calls]
        assert [span.seconds for span in run] == pytest.approx([took[call.name] for call in plan.calls])
        assert tuple(span.stream for span in run) == plan.schedule.stream
        assert tuple(span.waits for span in run) == plan.schedule.waits
        assert run[0].start == 0
        assert [a.start + a.seconds for a in run[:-1]] == pytest.approx([b.start for b in run[1:]])
    parts = sum(took[call.name] for call in plan.calls)
    assert sum(found.by_region().values()) == pytest.approx(parts)
    assert found.whole == pytest.approx(0.8 * parts, rel=0.01)  # and between two replays an event now and then


def test_a_slow_run_on_a_gpu_changes_no_median(monkeypatch: pytest.MonkeyPatch) -> None:
    net, _, took = on_a_gpu(monkeypatch)
    usual, runs = dict(took), []

    def given(name: str) -> None:
        if name.startswith("optgraph run"):
            runs.append(name)
            took.update({kernel: us * (9 if len(runs) == 2 else 1) for kernel, us in usual.items()})

    monkeypatch.setattr(torch.cuda.nvtx, "range_push", given)
    found = profile(net, repeats=3, nvtx=True)
    assert sum(span.seconds for span in found.runs[1]) == pytest.approx(9 * sum(found.by_region().values()))
    assert found.typical() != found.runs[1]


def test_ranges_have_the_names_of_onnx_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    net, clock, _ = on_a_gpu(monkeypatch)
    profile(net, repeats=1, nvtx=True)
    origin = {node.name: node.origin for node in net.fused.nodes()}
    assert all(origin.values())
    names = [f"{call.name} {', '.join(origin[call.node])}" for call in net.plan(1).calls]
    assert clock.ranges == ["optgraph run 1 of 1", *(each for name in names for each in (name, "end")), "end"]


def test_ranges_are_refused_without_a_gpu() -> None:
    with pytest.raises(InputError, match="this runs on torch: leave --nvtx out"):
        profile(optgraph.compile(classifier(), "torch"), nvtx=True)
