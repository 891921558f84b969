"""ONNX Runtime in a process of its own: the same answers, and whatever becomes of it, one line."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from optgraph.base.errors import OptgraphError
from optgraph.onnx import apart
from optgraph.onnx.apart import Apart, EndedError
from optgraph.onnx.sessions import session
from tests.support.cli_models import classifier
from tests.support.faulty_ort import __file__ as faulty_ort
from tests.support.paths import ROOT

X = np.random.default_rng(0).normal(size=(2, 3, 12, 12)).astype(np.float32)


def named_bad() -> bytes:
    """The classifier with a node of that name."""
    model = classifier()
    model.graph.node[3].name = "bad"
    return model.SerializeToString()


@pytest.fixture
def goes_wrong(monkeypatch: pytest.MonkeyPatch):
    """Makes ONNX Runtime go wrong, as `faulty_ort` says, in every process started after."""
    return lambda how: monkeypatch.setattr(apart, "COMMAND", ("-P", faulty_ort, how))


def test_the_same_answers_from_bytes_and_a_path(tmp_path: Path) -> None:
    onnx.save(classifier(), tmp_path / "model.onnx")
    with Apart() as process:
        for model in (classifier().SerializeToString(), str(tmp_path / "model.onnx")):
            here, there = session(model, optimize=False), process.opener("it")(model, optimize=False)
            assert (there.inputs, there.outputs) == (here.inputs, here.outputs) == (["x"], ["y"])
            for names in (None, ["y"]):
                np.testing.assert_array_equal(there.run(names, {"x": X})[0], here.run(names, {"x": X})[0])


def test_the_same_errors() -> None:
    with Apart() as process:
        for opened in (session, process.opener("it")):
            with pytest.raises(OptgraphError, match=r"^ONNX Runtime does not accept the model: "):
                opened(b"nothing")
            running = opened(classifier().SerializeToString())
            with pytest.raises(OptgraphError, match=r"^ONNX Runtime cannot run the model: .*dimensions") as raised:
                running.run(None, {"x": X[:, :2]})
            assert "\n" not in str(raised.value)
            assert running.run(None, {"x": X})[0].shape == (2, 10)


def test_a_session_is_there_again_after_another() -> None:
    with Apart() as process:
        first, second = (process.opener("it")(classifier(width=width).SerializeToString()) for width in (8, 4))
        one, two, again = first.run(None, {"x": X})[0], second.run(None, {"x": X})[0], first.run(None, {"x": X})[0]
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, two)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("SIGSEGV", r"ended with signal 11 \(SIGSEGV\)"),
        ("SIGKILL", "was killed, most likely for want of memory,"),
        ("exit", "ended with exit code 7"),
    ],
)
def test_it_dies_and_is_started_again(how: str, says: str, goes_wrong) -> None:
    goes_wrong(how)
    with Apart() as process:
        with pytest.raises(EndedError, match=f"^ONNX Runtime {says} on the model$") as raised:
            process.opener("the model")(named_bad())
        assert raised.value.what == "the model" and not raised.value.hung
        assert process.opener("it")(classifier().SerializeToString()).run(None, {"x": X})[0].shape == (2, 10)


def test_a_real_death() -> None:
    """ONNX Runtime dies of unnamed outputs, which `ort_faults.named_outputs` keeps from it elsewhere."""
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["a", "b"]) for name in "xy")
    nodes = [onnx.helper.make_node("Split", ["x"], ["y", ""], axis=1)]
    opsets = [onnx.helper.make_opsetid("", 13)]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [x], [y]), opset_imports=opsets, ir_version=8)
    with Apart() as process, pytest.raises(EndedError, match="ended with signal"):
        process.opener("it")(model.SerializeToString(), optimize=False).run(None, {"x": X[0, 0]})


def test_it_hangs(goes_wrong, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_wrong("hang")
    monkeypatch.setattr(apart, "DEADLINE", 1.0)
    start = time.monotonic()
    with (
        Apart() as process,
        pytest.raises(EndedError, match=r"was ended, for it gave no answer in 1 s, on it$") as raised,
    ):
        process.opener("it")(named_bad())
    assert raised.value.hung and time.monotonic() - start < 60


def test_what_it_raises_is_one_line(goes_wrong) -> None:
    goes_wrong("raise")
    with Apart() as process:
        with pytest.raises(OptgraphError, match=r"^ONNX Runtime cannot run the model: RuntimeError: something in many"):
            process.opener("it")(named_bad())
        assert process.opener("it")(classifier().SerializeToString()).outputs == ["y"]


def test_what_it_prints_is_no_answer(goes_wrong, capfd: pytest.CaptureFixture[str]) -> None:
    goes_wrong("print")
    with Apart() as process:
        assert process.opener("it")(named_bad()).run(None, {"x": X})[0].shape == (2, 10)
    assert capfd.readouterr() == ("", "")


def test_no_process_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    with Apart() as process:
        first = process._process
        monkeypatch.setattr(pickle, "load", interrupted)
        with pytest.raises(KeyboardInterrupt):
            process.opener("it")(classifier().SerializeToString())
        assert first.returncode is not None
        monkeypatch.undo()
        assert process.opener("it")(classifier().SerializeToString()).outputs == ["y"]  # a new one
    assert process._process.returncode is not None


SCRIPT = """
import sys
from optgraph.onnx import apart

apart.COMMAND = apart.COMMAND if sys.argv[2] == "well" else ("-P", *sys.argv[2:])
with apart.Apart() as process:
    print(process._process.pid, flush=True)
    print(process.opener("it")(open(sys.argv[1], "rb").read()).outputs)
"""


def started(folder: Path, *how: str) -> subprocess.Popen[str]:
    """A script without `if __name__ == "__main__"`, run where a file is called as a module that is needed."""
    (folder / "scripts").mkdir()
    (folder / "scripts" / "script.py").write_text(SCRIPT)
    (folder / "numpy.py").write_text("raise SystemExit('the wrong numpy')")
    (folder / "model.onnx").write_bytes(named_bad())
    command = [sys.executable, str(folder / "scripts" / "script.py"), "model.onnx", *how]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_script_of_any_kind(tmp_path: Path) -> None:
    with started(tmp_path, "well") as script:
        out, err = script.communicate()
    assert (script.returncode, err) == (0, "")
    assert out.splitlines()[1:] == ["['y']"]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes there")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_it_ends_with_who_started_it_though_it_hangs(how: signal.Signals, tmp_path: Path) -> None:
    with started(tmp_path, faulty_ort, "hang") as script:
        assert script.stdout is not None
        child = int(script.stdout.readline())
        time.sleep(1.0)
        script.send_signal(how)
        script.communicate()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{child}/cmdline").exists() and Path(f"/proc/{child}/cmdline").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.05)
