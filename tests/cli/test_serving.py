"""optgraph export-triton."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from optgraph.api import compiling
from tests.support.cli_models import call, classifier, close, expected, ok, ok_json, saved
from tests.support.served_models import coupled


def test_a_model_is_written_and_runs(model: Path, tmp_path: Path) -> None:
    said = ok("export-triton", model, "-o", tmp_path / "repo", "--max-batch", 16, "--delay-us", 500)
    assert "auto, KIND_AUTO" in said and "16 images at most, waiting 500 µs for one another" in said
    assert f"wrote {tmp_path}/repo/model, version 1\n" in said
    assert said.endswith(f"serve it: tritonserver --model-repository={tmp_path}/repo\n")
    x = np.random.default_rng(0).standard_normal((3, 3, 12, 12), np.float32)
    close(compiling.load(tmp_path / "repo" / "model" / "1" / "model.optgraph")(x), expected(model, x))


def test_a_compiled_file_is_a_version_of_its_model(model: Path, tmp_path: Path) -> None:
    ok("export-triton", model, "-o", tmp_path / "repo")
    ok("compile", model, "-o", tmp_path / "model.optgraph")
    said = ok_json("export-triton", tmp_path / "model.optgraph", "-o", tmp_path / "repo")
    assert (said["model"], said["version"], said["not_joined"]) == (str(tmp_path / "repo" / "model"), 2, "")
    assert (said["max_batch"], said["delay_us"], said["backend"]) == (8, 0, "auto")
    written = (tmp_path / "repo" / "model" / "2" / "model.optgraph").read_bytes()
    assert written == (tmp_path / "model.optgraph").read_bytes()


def test_why_requests_are_not_joined(tmp_path: Path) -> None:
    result = call("export-triton", saved(tmp_path, coupled()), "-o", tmp_path / "repo")
    assert result.exit_code == 0 and "joined   no" in result.stdout
    assert result.stderr == (
        "note: requests are not joined: what output 'y' says of an image depends on the others of its batch\n"
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--name", "a/b"), "--name a/b: no name of a model"),
        (("--backend", "tritonn"), "unknown backend 'tritonn'"),
        (("--any-size",), "--any-size is for a model compiled with --sizes"),
        (("--dtype", "fp17"), "unknown dtype 'fp17'"),
        (("--delay-us", 5, "--max-batch", 1), "--delay-us 5: requests are not joined: leave it out"),
        (("--labels", "none.txt"), "none.txt: cannot be read"),
        (("--target", "h1000"), "h1000"),
        (("--backend", "interpret", "--dtype", "bf16"), "interpreter cannot multiply bf16"),
    ],
)
def test_options_that_cannot_be_used(model: Path, tmp_path: Path, options: tuple[object, ...], says: str) -> None:
    result = call("export-triton", model, "-o", tmp_path / "repo", *options)
    assert result.exit_code == 2 and says in result.stderr and result.stderr.count("\n") == 1
    assert not list(tmp_path.glob("repo/*"))


def test_a_compiled_file_has_its_options_settled(model: Path, tmp_path: Path) -> None:
    ok("compile", model, "-o", tmp_path / "model.optgraph")
    for options in (("--dtype", "fp16"), ("--target", "h100"), ("--sizes", "12x12"), ("--labels", "names.txt")):
        result = call("export-triton", tmp_path / "model.optgraph", "-o", tmp_path / "repo", *options)
        assert result.exit_code == 2 and "to compile" in result.stderr


def test_a_damaged_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.optgraph").write_bytes(b'12345678{"__metadata__" and no more')
    result = call("export-triton", tmp_path / "model.optgraph", "-o", tmp_path / "repo")
    assert result.exit_code == 2 and "compile the .onnx again" in result.stderr
    assert ".tmp" not in result.stderr, "of the file that was given"
    result = call("export-triton", tmp_path / "none.optgraph", "-o", tmp_path / "repo")
    assert result.exit_code == 2 and "none.optgraph: no such file" in result.stderr


def test_what_is_there_is_not_overwritten(model: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.pbtxt").write_text("mine")
    result = call("export-triton", model, "-o", tmp_path)
    assert result.exit_code == 2 and "was not written by optgraph export-triton: give another --name" in result.stderr
    result = call("export-triton", model, "-o", model)
    assert result.exit_code == 2 and "is not a directory" in result.stderr
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["config.pbtxt"]


def test_labels_and_sizes(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\n".join(map(str, range(10))))
    model = saved(tmp_path, classifier(("n", 3, "h", "w")))
    options = "--labels", tmp_path / "names.txt", "--sizes", "12x12,16x12", "--any-size", "--backend", "torch"
    said = ok_json("export-triton", model, "-o", tmp_path / "repo", *options)
    assert said["inputs"] == {"x": ["float32", "N", 3, -1, -1]} and said["labels"]
