"""profile: its table, its trace, its page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from optgraph.api.profile import Profile, Span
from optgraph.report.profiles import trace_dict
from tests.support.cli_models import call, ok, ok_json
from tests.support.pages import facts_in
from tests.support.reported import net, small

# By phase, the fields that the Trace Event Format asks for beside name, ph, pid and tid, and their types.
ARROW = {"ts": float, "cat": str, "id": str}
FIELDS: dict[str, dict[str, Any]] = {
    "X": {"ts": float, "dur": float, "cat": str},
    "M": {},
    "C": {"ts": float},
    "s": ARROW,
    "f": {**ARROW, "bp": str},
}


def check_trace(data: dict[str, Any]) -> None:
    assert set(data) <= {"traceEvents", "displayTimeUnit", "otherData"} and data["displayTimeUnit"] in ("ms", "ns")
    for event in data["traceEvents"]:
        assert isinstance(event["name"], str) and isinstance(event["pid"], int) and isinstance(event["tid"], int)
        for field, kind in FIELDS[event["ph"]].items():
            assert isinstance(event[field], (int, kind) if kind is float else kind), (field, event)
        assert event.get("dur", 0) >= 0 and event.get("ts", 0) >= 0
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "thread_name") and isinstance(event["args"]["name"], str)
        if event["ph"] == "C":
            assert event["args"] and all(isinstance(value, int) for value in event["args"].values())


def test_streams_are_rows_and_waits_are_arrows() -> None:
    spans = (
        Span("a", "conv2d", "a", 0.0, 2e-6),
        Span("b", "pool", "b", 2e-6, 1e-6, stream=1, waits=(0,)),
        Span("c", "conv2d", "c", 3e-6, 1e-6, held=7),
    )
    data = trace_dict(net(small()), Profile("triton", 1, (spans,)))
    check_trace(data)
    rows = {event["name"]: event["tid"] for event in data["traceEvents"] if event["ph"] == "X"}
    assert rows == {"a": 1, "b": 2, "c": 1}
    begin, end = (next(event for event in data["traceEvents"] if event["ph"] == phase) for phase in "sf")
    assert (begin["tid"], begin["ts"], end["tid"], end["ts"]) == (1, 1.0, 2, 2.0) and begin["id"] == end["id"]
    assert [event["args"] for event in data["traceEvents"] if event["ph"] == "C"] == [{"bytes": 7}]


@pytest.mark.parametrize("backend", ["onnxruntime", "torch", "interpret"])
def test_the_trace_is_one_that_viewers_take(tmp_path: Path, model: Path, backend: str) -> None:
    trace = tmp_path / "trace.json"
    ok("profile", model, "--backend", backend, "--repeats", "1", "-o", trace)
    data = json.loads(trace.read_text())
    check_trace(data)
    spans = [event for event in data["traceEvents"] if event["ph"] == "X"]
    stem = next(event for event in spans if event["args"]["region"] == "/stem/Conv")
    assert stem["args"]["onnx_nodes"] == ["/stem/Conv", "/bn/BatchNormalization", "/act/Relu"]
    counters = [event for event in data["traceEvents"] if event["ph"] == "C"]
    assert bool(counters) == (backend != "torch")


def test_regions_the_slowest_first(model: Path) -> None:
    found = ok_json("profile", model, "--backend", "torch", "--batch", "3", "--repeats", "2")
    times = [region["ms"] for region in found["regions"]]
    assert times == sorted(times, reverse=True) and found["placed"] == 1 and found["batch"] == 3
    assert sum(times) == pytest.approx(found["ms"], rel=0.01)
    assert sum(region["share"] for region in found["regions"]) == pytest.approx(1, abs=0.01)
    shown = ok("profile", model, "--backend", "torch", "--top", "1", "--repeats", "1")
    assert "1 runs" not in shown and "is of a region" in shown


def test_the_page_has_what_was_measured(tmp_path: Path, model: Path) -> None:
    page = tmp_path / "page.html"
    ok("profile", model, "--backend", "onnxruntime", "--html", page)
    (found,) = facts_in(page.read_text())["compiles"]
    assert found["measured"]["backend"] == "onnxruntime" and found["measured"]["regions"]
    assert len(found["steps"]["steps"]) > 3


def test_what_cannot_be_written_is_said_before_the_work(tmp_path: Path, model: Path) -> None:
    assert "is the input itself" in call("profile", model, "-o", model).stderr
    assert "make it first" in call("profile", model, "--html", tmp_path / "no" / "page.html").stderr
