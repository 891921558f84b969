"""profile: its table, its trace, its page."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import ValidationError

from optgraph.api.net import Net
from optgraph.api.profile import Profile, Span
from optgraph.base.devices import SM_90
from optgraph.passes import pipeline
from optgraph.report.profiles import trace_dict
from tests.support.cli_models import call, ok, ok_json
from tests.support.fake_gpu import FakeGpu
from tests.support.gpu_clock import GpuClock
from tests.support.networks import inception_a
from tests.support.pages import facts_in
from tests.support.reported import net
from tests.support.traces import read


def on_streams(whole: float | None = None, us: float = 1 / 3) -> tuple[Net, Profile]:
    """A network with branches, as if a GPU took some thirds of a microsecond for each launch."""
    graph = inception_a()
    pipeline.apply(graph, pipeline.FUSE)
    made = net(graph)
    made.backend = "triton"
    plan = made.plans.get(1, SM_90)
    spans, at = [], 0.0
    places = zip(plan.calls, plan.schedule.stream, plan.schedule.waits, strict=True)
    for i, (of, stream, waits) in enumerate(places):
        took = (i + 1) * us * 1e-6
        spans.append(Span(of.node, of.name, of.node, at, took, None, stream, waits))
        at += took
    return made, Profile("triton", 1, (tuple(spans),), whole)


def test_streams_are_rows_and_waits_are_arrows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optgraph.api.net.kernel_target", lambda name: SM_90)
    made, profile = on_streams(whole=2e-6)
    (spans,), schedule = profile.runs, made.plan(1).schedule
    found = read(trace_dict(made, profile))
    assert found.process == "m.onnx"
    rows = found.rows()
    whole = rows.pop("all, as one CUDA graph")
    assert [(piece.start, piece.took, piece.args) for piece in whole] == [(0, 2.0, {"launches": len(spans)})]
    assert set(rows) == {f"triton, stream {stream}" for stream in range(schedule.streams)} and len(rows) > 1
    at = {name: [piece.name for piece in pieces] for name, pieces in rows.items()}
    for stream in range(schedule.streams):
        assert at[f"triton, stream {stream}"] == [span.name for span in spans if span.stream == stream]
    wanted = Counter((spans[j].name, span.name) for span in spans for j in span.waits)
    assert Counter((start.name, end.name) for start, end in found.arrows) == wanted and wanted
    assert all(start.start + start.took <= end.start + 1e-6 for start, end in found.arrows)
    origin = {node.name: list(node.origin) for node in made.fused.nodes()}
    assert all(piece.args["onnx_nodes"] == origin[piece.args["region"]] for each in rows.values() for piece in each)
    # Of what is on the arena during each launch, never more than it has.
    held = found.counters["memory bytes"]
    assert [at for at, _ in held] == [round(span.start * 1e6, 3) for span in spans]
    assert 0 < max(value for _, value in held) <= made.plan(1).arena_bytes


def test_pieces_lie_behind_one_another_however_times_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optgraph.api.net.kernel_target", lambda name: SM_90)
    for us in (1 / 3, 0.0015, 2 / 7, 1e-4):
        made, profile = on_streams(us=us)
        one_row = tuple(replace(span, stream=0, waits=()) for span in profile.runs[0])
        found = read(trace_dict(made, replace(profile, runs=(one_row,))))
        for piece, span in zip(found.pieces, one_row, strict=True):
            assert abs(piece.took - 1e6 * span.seconds) <= 1.1e-3


GOOD = {"ph": "X", "name": "b", "cat": "c", "ts": 1.0, "dur": 2.0, "pid": 1, "tid": 1}
ARROW = {"name": "w", "cat": "w", "id": 7, "pid": 1, "tid": 1}


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([GOOD | {"dur": -1}], "minimum"),
        ([GOOD | {"ts": "1"}], "not of type 'number'"),
        ([GOOD | {"color": "red"}], "Additional properties"),
        ([{key: value for key, value in GOOD.items() if key != "dur"}], "'dur' is a required property"),
        ([GOOD | {"ph": "Z"}], "is not one of"),
        ([GOOD, {"ph": "s", "ts": 2.0, **ARROW, "id": "7 8"}], "'7 8'"),
        ([GOOD, {"ph": "C", "name": "m", "ts": 1, "args": {"bytes": "7"}, "pid": 1, "tid": 1}], "not of type 'number'"),
        ([GOOD, GOOD | {"ts": 2.0}], "is partly in"),
        ([GOOD, {"ph": "s", "ts": 3.5, **ARROW}], "in no piece"),
        ([GOOD, {"ph": "s", "ts": 2.0, **ARROW}], "without an end"),
        ([GOOD, {"ph": "s", "ts": 2.0, **ARROW}, {"ph": "s", "ts": 2.5, **ARROW}], "two arrows"),
        ([GOOD, {"ph": "s", "ts": 2.0, **ARROW}, {"ph": "f", "ts": 2.5, **ARROW}], "in no piece"),
    ],
)
def test_what_viewers_drop_is_found(events: list[dict[str, Any]], said: str) -> None:
    named = [
        {"ph": "M", "name": name, "args": {"name": name}, "pid": 1, "tid": 1}
        for name in ("process_name", "thread_name")
    ]
    assert len(read({"traceEvents": [*named, GOOD]}).pieces) == 1
    with pytest.raises((ValidationError, ValueError), match=said):
        read({"traceEvents": [*named, *events]})


@pytest.mark.parametrize("backend", ["onnxruntime", "torch", "interpret"])
def test_the_trace_is_one_that_viewers_take(tmp_path: Path, model: Path, backend: str) -> None:
    trace = tmp_path / "trace.json"
    ok("profile", model, "--backend", backend, "--repeats", "1", "-o", trace)
    found = read(json.loads(trace.read_text()))
    stem = next(piece for piece in found.pieces if piece.args["region"] == "/stem/Conv")
    assert stem.args["onnx_nodes"] == ["/stem/Conv", "/bn/BatchNormalization", "/act/Relu"]
    assert bool(found.counters) == (backend != "torch")


def test_regions_the_slowest_first(model: Path) -> None:
    found = ok_json("profile", model, "--backend", "torch", "--batch", "3", "--repeats", "2")
    times = [region["ms"] for region in found["regions"]]
    assert times == sorted(times, reverse=True) and found["placed"] == 1 and found["batch"] == 3
    assert sum(times) == pytest.approx(found["ms"], rel=0.01)
    assert sum(region["share"] for region in found["regions"]) == pytest.approx(1, abs=0.01)
    shown = ok("profile", model, "--backend", "torch", "--top", "1", "--repeats", "1")
    assert "1 runs" not in shown and "is of a region" in shown


@pytest.mark.parametrize("host_us", [5.0, 1e6])
def test_on_a_gpu(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, host_us: float) -> None:
    """That takes 7 µs for every launch, and 5 in a graph."""

    def compute(launch: Any) -> None:
        by_itself = gpu.done[-1] == "launch"
        clock.give(7e-6 if by_itself else 5e-6, host_us * 1e-6 if by_itself else 0.0)

    gpu = FakeGpu(monkeypatch, compute)
    clock = GpuClock(monkeypatch)
    page, trace = tmp_path / "page.html", tmp_path / "trace.json"
    command = ["profile", model, "--backend", "triton", "--repeats", "2"]
    shown = ok(*command, "--html", page, "-o", trace)
    (facts,) = facts_in(page.read_text())["compiles"]
    launches = len(facts["schedule"]["launches"])
    assert facts["measured"]["whole_ms"] == pytest.approx(0.005 * launches, abs=0.0005)
    assert f"{5 * launches}.0 µs as one CUDA graph, with branches at the same time" in shown
    assert facts["measured"]["host_bound"] == (host_us > 1e4) == ("the host was too slow" in shown)
    found = read(json.loads(trace.read_text()))
    if host_us < 1e4:
        assert "  7.0  " in shown and f"{7 * launches}.0 µs, each launch by itself, median of 2 runs" in shown
        assert {piece.took for piece in found.pieces if piece.row != "all, as one CUDA graph"} == {7.0}
    ok(*command, "--nvtx")
    assert "/stem/Conv, /bn/BatchNormalization, /act/Relu" in " ".join(clock.ranges)
    assert "leave --nvtx out" in call("profile", model, "--nvtx", "--backend", "torch").stderr


def test_the_page_has_what_was_measured(tmp_path: Path, model: Path) -> None:
    page = tmp_path / "page.html"
    ok("profile", model, "--backend", "onnxruntime", "--html", page)
    (found,) = facts_in(page.read_text())["compiles"]
    assert found["measured"]["backend"] == "onnxruntime" and found["measured"]["regions"]
    assert len(found["steps"]["steps"]) > 3


def test_what_cannot_be_written_is_said_before_the_work(tmp_path: Path, model: Path) -> None:
    assert "is the input itself" in call("profile", model, "-o", model).stderr
    assert "make it first" in call("profile", model, "--html", tmp_path / "no" / "page.html").stderr
