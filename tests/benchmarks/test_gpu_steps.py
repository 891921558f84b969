"""What `make gpu` does: steps in order while there is time, and what an earlier call left is gone on from."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import gpu_steps, record
from optgraph.plan import lowering as lowering


class Machine:
    """Runs nothing, takes its time, and exits as told."""

    def __init__(self, seconds: float, codes: dict[str, int]) -> None:
        self.now, self._seconds, self._codes = 0.0, seconds, codes
        self.commands: list[list[str]] = []
        self.environment: dict[str, str] = {}

    def execute(self, command: list[str], environment: dict[str, str], seconds: float) -> int:
        assert seconds > 0
        self.commands.append(command)
        self.environment = environment
        self.now += self._seconds
        return next((code for word, code in self._codes.items() if word in command), 0)


@pytest.fixture
def folders(tmp_path, monkeypatch) -> tuple[Path, Path]:
    results = tmp_path / "results"
    (results / "tuned").mkdir(parents=True)
    (results / "gpu.json").write_text("old")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    (results / "tuned" / "sm_90.json").write_text("tiles")
    monkeypatch.setattr(record, "RESULTS", results)
    monkeypatch.setattr(record, "model", lambda name: Path(f"/{name}.onnx"))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    return results, tmp_path / "out"


def steps(machine: Machine, out: Path, minutes: float = 9.0) -> dict[str, str]:
    return gpu_steps.run(list(gpu_steps.STEPS), out, minutes, "abc", machine.execute, lambda: machine.now)


def test_all_steps_run_in_order_with_the_time_that_is_left(folders) -> None:
    machine = Machine(30.0, {})
    assert steps(machine, folders[1]) == dict.fromkeys(gpu_steps.STEPS, "done")
    tests, *tunes, race = machine.commands
    assert "pytest" in tests and "--minutes" not in tests
    assert [command[4] for command in tunes] == [f"/{name}.onnx" for name in record.NETWORKS]
    assert [command[-1] for command in tunes] == ["8.50", "8.00", "7.50"]
    assert "benchmarks.gpu" in race and race[-1] == "7.00" and "abc" in race
    assert "TRITON_INTERPRET" not in machine.environment and machine.environment["OPTGRAPH_TEST_GPU"] == "1"
    assert machine.environment["OPTGRAPH_TUNED"] == str(folders[1] / "tuned")
    assert machine.environment["TORCHINDUCTOR_CACHE_DIR"] == str(folders[1] / "inductor")


def test_what_an_earlier_call_left_is_taken_over_once(folders) -> None:
    results, out = folders
    steps(Machine(1.0, {}), out)
    assert (out / "gpu.json").read_text() == "old" and (out / "tuned" / "sm_90.json").read_text() == "tiles"
    (out / "gpu.json").write_text("newer")
    steps(Machine(1.0, {}), out)
    assert (out / "gpu.json").read_text() == "newer"
    steps(Machine(1.0, {}), results)  # where they are the same folder


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ({"pytest": 1}, ("failed", "done", "done")),
        ({"pytest": 5}, ("done", "done", "done")),  # all have passed before
        ({"optgraph": 1, "benchmarks.gpu": 75}, ("done", "unfinished", "unfinished")),
        ({"optgraph": 2, "benchmarks.gpu": 1}, ("done", "failed", "failed")),
    ],
)
def test_exit_codes_are_understood(codes, expected, folders) -> None:
    assert tuple(steps(Machine(1.0, codes), folders[1]).values()) == expected


def test_nothing_is_started_when_the_time_is_up(folders) -> None:
    machine = Machine(100.0, {})
    assert steps(machine, folders[1], minutes=3.0) == {"tests": "done", "tune": "unfinished", "race": "unfinished"}
    assert len(machine.commands) == 2


def test_tests_that_passed_are_left_out_the_next_time(tmp_path, monkeypatch) -> None:
    """What tests/gpu/conftest.py does where there is a GPU."""
    from tests.gpu import conftest

    chip = {"gpu": "one"}
    monkeypatch.setattr(conftest, "_obstacle", lambda: "")
    monkeypatch.setattr(record, "identity", lambda: chip)
    monkeypatch.setenv("OPTGRAPH_TEST_PASSED", str(tmp_path / "gpu_tests.json"))
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    names = ["tests/gpu/test_a.py::test_1", "tests/gpu/test_a.py::test_2", "tests/test_b.py::test_1"]
    for name, passed in zip(names, (True, False, True), strict=True):
        report = SimpleNamespace(when="call", passed=passed, nodeid=name, duration=1.0)
        conftest.pytest_runtest_logreport(report)

    def left() -> list[str]:
        items = [SimpleNamespace(nodeid=name, path=record.ROOT / name.partition("::")[0]) for name in names]
        hooks = SimpleNamespace(hook=SimpleNamespace(pytest_deselected=lambda items: None))
        conftest.pytest_collection_modifyitems(hooks, items)
        return [item.nodeid for item in items]

    assert left() == names[1:]
    chip["gpu"] = "another"
    assert left() == names


def test_a_command_that_hangs_is_stopped() -> None:
    sleep = ["python3", "-c", "import time; time.sleep(60)"]
    assert gpu_steps.execute(sleep, {}, 0.2) == gpu_steps.UNFINISHED
    assert gpu_steps.execute(["python3", "-c", "raise SystemExit(3)"], {}, 60.0) == 3
