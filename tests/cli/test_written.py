"""What a command writes is none of the files that it reads, however it is named, and no two are one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from tests.support.cli_models import call, classifier

INPUT = "is the input itself"
TWICE = "is to be written twice"
QUICK = ("--repeats", 1, "--duration", 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model with its weights beside it, the like compiled, an image, an array and names of classes."""
    onnx.save(classifier(), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    assert call("compile", tmp_path / "m.onnx", "-o", tmp_path / "m.optgraph").exit_code == 0
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 12, 12), np.float32))
    Image.new("RGB", (12, 12)).save(tmp_path / "a.png")
    (tmp_path / "names.txt").write_text("\n".join(map(str, range(10))))
    return tmp_path


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("optimize", "m.onnx", "-o", "m.data"), INPUT),
        (("calibrate", "m.onnx", "m.data"), INPUT),
        (("compile", "m.onnx", "-o", "m.data"), INPUT),
        (("compile", "m.onnx", "--report", "m.data"), INPUT),
        (("compile", "m.onnx", "-o", "names.txt", "--labels", "names.txt"), INPUT),
        (("compile", "m.onnx", "-o", "a.png", "--input", "a.png"), INPUT),
        (("compile", "m.onnx", "-o", "x.npy", "--input", "x=x.npy"), INPUT),
        (("compile", "m.onnx", "-o", "new", "--report", "new"), TWICE),
        (("inspect", "m.onnx", "--dot", "m.data"), INPUT),
        (("inspect", "m.onnx", "--dot", "new", "--html", "new"), TWICE),
        (("profile", "m.onnx", "-o", "new", "--html", "new"), TWICE),
        (("run", "m.onnx", "x.npy", "-o", "x.npy"), INPUT),
        (("run", "m.onnx", "x=x.npy", "-o", "x.npy"), INPUT),
        (("run", "m.onnx", ".", "-o", "x.npy"), INPUT),
        (("bench", "m.optgraph", "--original", "m.onnx", "--csv", "m.onnx", *QUICK), INPUT),
        (("bench", "m.onnx", "--csv", "m.data", *QUICK), INPUT),
    ],
)
def test_nothing_that_is_read_is_overwritten(
    folder: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    result = call(*command)
    assert result.exit_code == 2 and says in result.stderr and result.stderr.count("\n") == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_what_was_there_and_is_not_read_is_replaced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "old").write_bytes(b"old")
    for command in (("compile", "m.onnx", "-o", "old"), ("optimize", "m.onnx", "-o", "old")):
        assert call(*command).exit_code == 0 and len((folder / "old").read_bytes()) > 100
