"""Where the time of a run goes: each kernel's to its region, however ONNX Runtime names it."""

from __future__ import annotations

import itertools

import pytest

import optgraph
from optgraph.api.profile import Profile, Span, profile, regions_by_name, spans_of
from optgraph.base.errors import InputError
from tests.support.cli_models import classifier


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


def test_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    net = optgraph.compile(classifier(), "torch")
    monkeypatch.setattr(net, "backend", "triton")
    with pytest.raises(InputError, match="measures on the CPU"):
        profile(net)
