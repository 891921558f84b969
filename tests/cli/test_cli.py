"""The command line as a program: its help, its exit codes, how it ends when interrupted."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from optgraph.cli import main
from tests.support.cli_models import call, ok, saved


def program(*arguments: object, **kwargs: object) -> subprocess.Popen[str]:
    """The command line in a process of its own, where nothing has chosen Triton's mode yet."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    # A shell's background jobs ignore SIGINT, and what they start inherits that.
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [sys.executable, "-c", f"{listen}; from optgraph.cli.main import main; main()", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment, **kwargs)  # type: ignore[call-overload]


def test_help_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'onnx', 'onnxruntime', 'triton', 'PIL', 'networkx', 'numpy'}"
    code = f"import sys, optgraph.cli.main\nprint(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_interpret_needs_no_environment(model: Path) -> None:
    out, err = program("run", model, "--backend", "interpret", "--json").communicate(timeout=120)
    assert json.loads(out)["backend"] == "interpret"
    assert err == ""


def test_a_reader_that_leaves(model: Path) -> None:
    process = program("inspect", model)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=120) == 141


def test_interrupt(tmp_path: Path) -> None:
    """Stopped while it waits for an input that never comes: 130, and nothing on stderr."""
    os.mkfifo(tmp_path / "slow.npy")
    process = program("run", saved(tmp_path), "--input", tmp_path / "slow.npy")
    writer = None
    while writer is None:  # until the program reads
        assert process.poll() is None
        time.sleep(0.1)
        with contextlib.suppress(OSError):
            writer = os.open(tmp_path / "slow.npy", os.O_WRONLY | os.O_NONBLOCK)
    time.sleep(0.5)  # it has opened the file and now waits in `read`, which a signal interrupts
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    os.close(writer)
    assert (process.returncode, out, err) == (130, "", "")


def test_every_command_has_help_with_an_example() -> None:
    commands = [c.callback.__name__ for c in main.app.registered_commands if c.callback]
    assert sorted(commands) == [
        "bench",
        "calibrate",
        "check",
        "compile",
        "inspect",
        "optimize",
        "run",
        "tune",
        "verify",
    ]
    overview = ok("--help")
    for command in commands:
        assert command in overview
        text = ok(command, "--help")
        assert "Example" in text and f"  optgraph {command} " in text


@pytest.mark.parametrize(
    ("error", "says"),
    [(ZeroDivisionError("oh"), "internal error: ZeroDivisionError: oh: please report"), (MemoryError(), "memory")],
)
def test_what_is_not_the_users_fault(model: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, says: str) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("optgraph.plan.plans.lower", fail)
    result = call("inspect", model)
    assert result.exit_code == 3 and says in result.stderr and result.stderr.count("\n") == 1
    monkeypatch.setenv("OPTGRAPH_DEBUG", "1")
    if isinstance(error, ZeroDivisionError):
        assert "Traceback" in call("inspect", model).stderr
