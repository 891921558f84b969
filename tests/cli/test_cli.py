"""The command line as a program: its help, its exit codes, how it ends when interrupted."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.main import get_command_name
from typer.testing import CliRunner

from optgraph.base.version import version
from optgraph.cli import main
from optgraph.passes.pipeline import Pass
from optgraph.passes.rewrite import Outcome, Refusal
from tests.support.cli_models import call, ok, saved


def program(*arguments: object, **kwargs: object) -> subprocess.Popen[str]:
    """The command line in a process of its own, where nothing has chosen Triton's mode yet."""
    environment = kwargs.pop("env", {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"})
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
    commands = [get_command_name(c.callback.__name__) for c in main.app.registered_commands if c.callback]
    assert sorted(commands) == [
        "bench",
        "calibrate",
        "check",
        "compile",
        "export-triton",
        "inspect",
        "optimize",
        "profile",
        "quantize",
        "run",
        "tune",
        "verify",
    ]
    overview = ok("--help")
    assert "..." not in overview.split("Commands:")[1]  # what each does, in a whole sentence
    for command in commands:
        assert command in overview
        text = ok(command, "--help")
        assert "Example" in text and f"  optgraph {command} " in text


def test_help_in_a_narrow_terminal() -> None:
    """Every option by its whole name, whatever the width; and what is a flag takes no value."""
    for command in main.app.registered_commands:
        name = get_command_name(command.callback.__name__)  # type: ignore[union-attr]
        texts = [
            CliRunner().invoke(main.app, [name, flag], terminal_width=width).stdout
            for flag, width in (("-h", 40), ("--help", 80))
        ]
        options = [set(re.findall("(?m)^  (?:-., )?(--[a-z0-9-]+)", text)) for text in texts]
        assert options[0] == options[1] >= {"--json", "--verbose", "--quiet", "--help"}
        assert "bool" not in texts[0]
        assert max(map(len, texts[1].split("Arguments:")[1].splitlines())) <= 80


def test_version() -> None:
    assert ok("--version") == f"optgraph {version()}\n"


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("optgraph comp", ["compile"]),
        ("optgraph compile m.onnx --dt", ["--dtype"]),
        ("optgraph compile m.onnx --dtype fp", ["fp32", "fp16"]),
        ("optgraph run m.onnx --backend t", ["triton", "torch"]),
        ("optgraph compile m.onnx --target sm_90,rtx409", ["sm_90,rtx4090"]),
        ("optgraph inspect m.onnx --target h1", ["h100"]),
    ],
)
def test_completion(words: str, completed: list[str]) -> None:
    environment = {"_OPTGRAPH_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    out = program(env=os.environ | environment).communicate(timeout=60)[0]
    assert out.split() == completed


def test_the_script_that_completes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shellingham.detect_shell", lambda *_: ("bash", "/bin/bash"))
    shown = CliRunner().invoke(main.app, ["--show-completion"], prog_name="optgraph")
    assert "complete" in shown.stdout and "_OPTGRAPH_COMPLETE" in shown.stdout


def test_quiet_and_verbose(tmp_path: Path) -> None:
    model = saved(tmp_path)
    result = call("compile", model, "-q")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert json.loads(ok("compile", model, "-q", "--json"))["nodes"]
    result = call("compile", tmp_path / "none.onnx", "-q")
    assert result.exit_code == 2 and "no such file" in result.stderr
    for command in (["compile", model], ["optimize", model, "-o", tmp_path / "less.onnx"]):
        less, more = (ok(*command, *flags) for flags in ((), ("-v",)))
        assert "constant folding" not in less and "others " in less
        assert "constant folding" in more and "others " not in more


def test_verbose_says_what_passes_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = Refusal("a rule", "[bold]a node", "a reason")
    monkeypatch.setattr(
        "optgraph.passes.pipeline.SIMPLIFY", (Pass("p", "a pass", lambda graph: Outcome(0, [refusal])),)
    )
    words = "a pass: a rule refused at '[bold]a node': a reason"
    command = ("optimize", model, "-o", model.parent / "less.onnx")
    assert words in ok(*command, "-v") and words not in ok(*command)


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
        monkeypatch.delenv("OPTGRAPH_DEBUG")
        assert "Traceback" in call("inspect", model, "-v").stderr
