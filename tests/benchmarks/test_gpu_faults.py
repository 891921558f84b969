"""Whatever a step's tasks do, `make gpu` measures the rest, says what failed and why, and ends in time."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import record
from benchmarks.gpu import steps
from benchmarks.gpu.runner import Found, Limits, Process
from tests.support.paths import ROOT

# What a task does, and what is said of it; None: it is no fault.
FAULTS: dict[str, str | None] = {
    "first": None,
    "raises": "ValueError: off by 3.0e-01, bound 2.0e-03 and more",
    "signal": "it ended by SIGSEGV",
    "exits": "it ended, with exit code 3",
    "hangs": "no answer within 0.4 s",
    "nan": "no number: us is nan",
    "garbage": "it answered b'\\x00\\xff no JSON'",
    "other": "it answered \"{'record': 3}\"",
    "endless": "no answer within 0.4 s",
    "prints": None,
    "3×3 layer": None,
    "sticky": "RuntimeError: CUDA error: an illegal memory access was encountered",
    "late": "RuntimeError: CUDA error: an illegal memory access was encountered",
    "last": None,
}
NAMES = [step.name for step in steps.STEPS]
# Two steps that share a file would find each other's tasks done.
FAKES = [
    replace(step, file=f"{step.name}.json", limits=replace(step.limits, start=2.0, listing=0.6)) for step in steps.STEPS
]


def start(out: Path, faults: Mapping[str, str], listing: Mapping[str, str] | None = None) -> steps.Start:
    """faults, listing: by step; see `fake_step.py`."""

    def of(step: steps.Step, environment: Mapping[str, str]) -> Callable[[], Process]:
        script, fault = str(ROOT / "tests" / "support" / "fake_step.py"), (listing or {}).get(step.name, "")
        command = [sys.executable, "-S", script, faults.get(step.name, "first"), fault]
        return lambda: Process(command, environment, out / "logs" / f"{step.name}.log")

    return of


def run(
    out: Path, faults: Mapping[str, str], listing: Mapping[str, str] | None = None, minutes: float = 5.0
) -> dict[str, Found]:
    # As on a machine whose locale knows no ×.
    environment = dict(os.environ) | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    return steps.run(FAKES, out, minutes, environment, start(out, faults, listing), tell=lambda text: None)


@pytest.fixture(autouse=True, scope="module")
def no_results(tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "RESULTS", tmp_path_factory.mktemp("results"))
        yield


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict[str, Found], dict[str, dict]]]:
    """Three calls of all steps with all faults in each: what was found, and the files after each."""
    out = tmp_path_factory.mktemp("out")
    wanted = ",".join(name for name in FAULTS if name != "last")
    found = []
    for _ in range(3):
        call = run(out, dict.fromkeys(NAMES, wanted))
        found.append((call, {name: json.loads((out / f"{name}.json").read_text()) for name in NAMES}))
    return found


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("step", NAMES)
def test_what_fails_is_told_and_the_rest_is_measured(step: str, fault: str, calls) -> None:
    found, files = calls[0]
    reason = FAULTS[fault]
    if reason is None:
        assert files[step]["records"][fault] == {"us": 1.5}
        assert fault not in found[step].failed
    else:
        assert fault not in files[step]["records"]
        assert files[step]["failed"][fault].startswith(reason) or reason == files[step]["failed"][fault]
        assert any(fault in line and reason in line for line in steps.told(found))
    assert found[step].state == "failed" and not found[step].error


@pytest.mark.parametrize("step", NAMES)
def test_what_failed_is_tried_once_more_and_then_left(step: str, calls) -> None:
    faults = {name for name, reason in FAULTS.items() if reason is not None}
    for number, (found, files) in enumerate(calls):
        assert files[step]["begun"] == dict.fromkeys(faults, min(number + 1, 2))
        assert found[step].done == (len(FAULTS) - len(faults) if number == 0 else 0)
        assert set(found[step].failed) == faults
    assert calls[2][0][step].seconds < calls[1][0][step].seconds


@pytest.mark.parametrize("fault", ["raises", "exits", "hangs", "garbage"])
@pytest.mark.parametrize("place", ["start", "list"])
def test_a_step_that_does_not_begin_or_list_its_tasks_stops_no_other(place: str, fault: str, tmp_path: Path) -> None:
    broken = NAMES[1::4]
    fakes = dict.fromkeys(broken, f"{place} {fault}")
    found = run(tmp_path, {}, fakes)
    for name in NAMES:
        expected = {"first"} if place == "list" else set()
        kept = json.loads((tmp_path / f"{name}.json").read_text())["records"] if found[name].kept else {}
        assert set(kept) == (expected if name in broken else {"first", "last"})
        assert found[name].error.startswith("its tasks could not be listed") == (name in broken)
        assert name not in broken or found[name].error in "\n".join(steps.told(found))


def test_a_call_ends_in_time_though_everything_hangs(tmp_path: Path) -> None:
    begin = time.monotonic()
    found = run(tmp_path, dict.fromkeys(NAMES, "takes long"), minutes=3.0 / 60)
    assert time.monotonic() - begin < 4.5
    assert set(found) == set(NAMES) and all(step.left or step.failed or step.error for step in found.values())


def test_a_call_ends_in_time_though_nothing_starts(tmp_path: Path) -> None:
    begin = time.monotonic()
    found = run(tmp_path, {}, dict.fromkeys(NAMES, "start hangs"), minutes=2.0 / 60)
    assert time.monotonic() - begin < 3.5 and all(step.left or step.error for step in found.values())


def test_nothing_that_a_killed_task_started_goes_on(tmp_path: Path, calls) -> None:
    run(tmp_path, {"probe": "hangs"})
    child = int((tmp_path / "logs" / "probe.log").read_text().split()[1])
    for _ in range(50):
        if not alive(child):
            return
        time.sleep(0.02)
    raise AssertionError("it is still there")


def alive(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_what_another_machine_measured_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "probe.json").write_text(json.dumps({"identity": {"gpu": "another"}, "records": {"first": {"us": 9}}}))
    run(tmp_path, {})
    assert json.loads((tmp_path / "probe.json").read_text())["records"]["first"] == {"us": 1.5}
    assert json.loads((tmp_path / "probe.earlier").read_text())["records"] == {"first": {"us": 9}}


def test_a_task_is_noted_before_it_starts_and_kept_though_the_call_itself_is_killed(tmp_path: Path) -> None:
    from benchmarks.gpu.runner import Runner

    class KilledError(BaseException):
        """The call's end, in the middle of a task."""

    class Killed(Process):
        def ask(self, question: str, seconds: float) -> dict:
            if question == "do last":
                raise KilledError
            return super().ask(question, seconds)

    script = str(ROOT / "tests" / "support" / "fake_step.py")
    command = [sys.executable, "-S", script, "first", ""]
    log, path = tmp_path / "log", tmp_path / "r.json"
    deadline = time.monotonic() + 20
    with pytest.raises(KilledError):
        Runner(lambda: Killed(command, os.environ, log), path, deadline, Limits(), tell=lambda text: None).run()
    found = json.loads(path.read_text())
    assert set(found["records"]) == {"first"} and found["begun"] == {"last": 1}
    again = Runner(lambda: Process(command, os.environ, log), path, deadline, Limits(), tell=lambda text: None).run()
    assert again.done == 1 and again.state == "done" and "begun" not in json.loads(path.read_text())


def test_little_time_is_not_begun_with(tmp_path: Path) -> None:
    """Of a task that takes up to 0.4 s none is begun with less than half of that left."""
    clock = iter([0.0, 0.0, *([0.9] * 100)])
    out = start(tmp_path, {})(FAKES[0], os.environ)
    from benchmarks.gpu.runner import Runner

    runner = Runner(out, tmp_path / "r.json", 1.0, Limits(), clock=lambda: next(clock), tell=lambda text: None)
    found = runner.run()
    assert found.left == 2 and found.done == 0 and found.state == "unfinished" and not found.failed
