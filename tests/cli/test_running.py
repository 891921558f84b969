"""run, verify, bench: what they print, write and exit with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from PIL import Image

from optgraph.api import compiling
from optgraph.onnx.write import save_onnx
from tests.support.cli_models import call, classifier, close, expected, ok, ok_json, saved
from tests.support.two_inputs import shifted


@pytest.mark.parametrize("backend", ["onnxruntime", "torch", "interpret"])
def test_run(tmp_path: Path, model: Path, backend: str) -> None:
    x = np.random.default_rng(1).standard_normal((3, 3, 12, 12)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    found = ok_json("run", model, "--backend", backend, "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy")
    y = np.load(tmp_path / "y.npy")
    close(y, expected(model, x))
    assert found["backend"] == backend and found["ms"] > 0
    assert found["outputs"]["y"]["shape"] == [3, 10]
    top = found["outputs"]["y"]["top"]
    assert [[c["class"] for c in image] for image in top] == np.argsort(-y, axis=1)[:, :5].tolist()
    assert top[2][0]["score"] == pytest.approx(float(y[2].max()))


def test_run_an_artifact(tmp_path: Path, model: Path) -> None:
    ok("compile", model)
    for path in (model, model.with_suffix(".optgraph")):
        ok("run", path, "--output", tmp_path / f"{path.suffix}.npy")
    close(np.load(tmp_path / ".optgraph.npy"), np.load(tmp_path / ".onnx.npy"))


def test_run_says_what_it_computed_in(model: Path) -> None:
    """ONNX Runtime and torch know only float32, whatever the kernels were to use."""
    dtypes = {
        b: ok_json("run", model, "--dtype", "fp16", "--backend", b)["dtype"] for b in ("interpret", "onnxruntime")
    }
    assert dtypes == {"interpret": "fp16", "onnxruntime": "fp32"}


def test_random_input_is_always_the_same(tmp_path: Path, model: Path) -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, 12, 12)).astype(np.float32)
    out = ok("run", model, "--input", "random", "--output", tmp_path / "y.npy")
    y = np.load(tmp_path / "y.npy")
    close(y, expected(model, x))
    assert f"{y.argmax()}       {y.max():.2%}" in out and "1×10, probabilities" in out and "ms on onnxruntime" in out


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_an_image(tmp_path: Path, suffix: str, layout: str) -> None:
    """Resized, scaled to [-1, 1], and laid out as the input asks; a PNG may have a palette or be transparent."""
    proto = classifier()
    if layout == "NHWC":
        proto = classifier(shape=("n", 12, 12, 3))
        proto.graph.node[0].CopyFrom(helper.make_node("Transpose", ["x"], ["same"], perm=[0, 3, 1, 2]))
    model = saved(tmp_path, proto)
    picture = Image.fromarray(np.random.default_rng(2).integers(0, 256, (31, 20, 3), np.uint8))
    if suffix == "png":
        picture = picture.quantize(64)
    picture.save(tmp_path / f"x.{suffix}")
    ok("run", model, "--input", tmp_path / f"x.{suffix}", "--output", tmp_path / "y.npy")
    seen = Image.open(tmp_path / f"x.{suffix}").convert("RGB").resize((12, 12), Image.Resampling.BILINEAR)
    x = (np.asarray(seen, np.float32) / 127.5 - 1.0)[None]
    assert -1.0 <= x.min() < -0.2 and 0.2 < x.max() <= 1.0
    close(np.load(tmp_path / "y.npy"), expected(model, x.transpose(0, 3, 1, 2).copy() if layout == "NCHW" else x))


def two_inputs(directory: Path) -> Path:
    """left + right and left × right; one output is called as an argument of numpy.savez, one has a slash."""
    shape = ["n", 4, 5, 5]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("left", "right", "file", "a/b")]
    nodes = [
        helper.make_node("Add", ["left", "right"], ["file"]),
        helper.make_node("Mul", ["left", "right"], ["a/b"]),
    ]
    graph = helper.make_graph(nodes, "two", values[:2], values[2:])
    return saved(directory, helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    model = two_inputs(tmp_path)
    rng = np.random.default_rng(3)
    left, right = (rng.standard_normal((2, 4, 5, 5)).astype(np.float32) for _ in range(2))
    np.save(tmp_path / "a.npy", left)
    np.save(tmp_path / "b.npy", right)
    pair = ("--input", f"right={tmp_path / 'b.npy'}", "--input", f"left={tmp_path / 'a.npy'}")
    found = ok_json("run", model, *pair, "--output", tmp_path / "y.npz")
    with np.load(tmp_path / "y.npz") as archive:
        assert sorted(archive.files) == ["a/b", "file"]
        close(archive["file"], left + right)
        close(archive["a/b"], left * right)
    assert found["outputs"]["file"]["top"] is None
    for arguments, says in (
        ((*pair, "--output", tmp_path / "y.npy"), ".npz"),
        (pair[:2], "'left' is missing: --input left=FILE"),
        (("--input", tmp_path / "a.npy"), "say for which input, NAME="),
        (("--input", "a=random"), "--input a=random: no input 'a': the network has left, right"),
    ):
        result = call("run", model, *arguments)
        assert result.exit_code == 2 and says in result.stderr
    ok("run", model, "--input", "right=random", "--input", "random")
    mixed = ok_json("run", model, *pair[:2], "--input", "left=random")
    assert mixed["outputs"]["file"]["shape"] == [2, 4, 5, 5]


def test_several_sources_for_each_of_several_inputs(tmp_path: Path) -> None:
    """Each input's are a batch; a .npz has arrays for both; another number of images is refused."""
    model = two_inputs(tmp_path)
    rng = np.random.default_rng(4)
    left, right = (rng.standard_normal((3, 4, 5, 5)).astype(np.float32) for _ in range(2))
    for name, array in (("a", left[:1]), ("b", left[1:]), ("c", right[:2]), ("d", right[2:])):
        np.save(tmp_path / f"{name}.npy", array)
    np.savez(tmp_path / "both.npz", left=left, right=right)
    apart = [
        f"{name}={tmp_path / file}.npy" for name, file in zip(["left", "left", "right", "right"], "abcd", strict=True)
    ]
    for arguments in (apart, [*apart, "--batch", 2], [tmp_path / "both.npz"], [tmp_path / "both.npz", "--batch", 1]):
        ok("run", model, *arguments, "--output", tmp_path / "y.npz")
        with np.load(tmp_path / "y.npz") as archive:
            close(archive["file"], left + right)
            close(archive["a/b"], left * right)
    for batch in ([], ["--batch", 1]):
        result = call("run", model, *apart[:-1], *batch)
        assert result.exit_code == 2 and ("different batch sizes" if not batch else "as many images") in result.stderr


def test_json_has_no_nan(tmp_path: Path, model: Path) -> None:
    np.save(tmp_path / "x.npy", np.full((1, 3, 12, 12), np.nan, np.float32))
    found = ok_json("run", model, "--input", tmp_path / "x.npy", "--backend", "torch")
    assert found["outputs"]["y"]["top"][0][0]["score"] is None


@pytest.mark.parametrize("backend", ["onnxruntime", "interpret"])
def test_verify(model: Path, backend: str) -> None:
    found = ok_json("verify", model, "--backend", backend, "--batch", 2)
    assert found["ok"] is True and found["backend"] == backend and found["batch"] == 2
    assert 0 < found["outputs"][0]["rel_l2"] < found["bound"]
    assert found["first_bad_region"] is None


def test_verify_on_images(tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for i, name in enumerate(("a.png", "b.JPG", "c.npy", "notes.txt")):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 30, 3), np.uint8)
        if name.endswith("npy"):
            np.save(folder / name, np.zeros((1, 3, 12, 12), np.float32))
        elif not name.endswith("txt"):
            Image.fromarray(pixels).save(folder / name)
    one, two = ("--input", folder / "a.png"), ("--input", folder)
    found = ok_json("verify", model, *one, *two)
    assert found["ok"] and found["inputs"] == 4 and found["outputs"][0]["top1"] == 1.0
    assert "4 inputs" in ok("verify", model, *one, *two)
    empty = tmp_path / "empty"
    empty.mkdir()
    result = call("verify", model, "--input", empty)
    assert result.exit_code == 2 and "a folder without images" in result.stderr


def test_verify_on_several_inputs_of_a_network(tmp_path: Path) -> None:
    path = tmp_path / "two.onnx"
    save_onnx(shifted(), path)
    net_inputs = compiling.compile(path, "torch").inputs
    arguments: list[object] = []
    for name, value in net_inputs.items():
        for i in range(2):
            shape = tuple(1 if isinstance(d, str) else d for d in value.shape)
            np.save(tmp_path / f"{name}{i}.npy", np.random.default_rng(i).normal(size=shape).astype(np.float32))
            arguments += ["--input", f"{name}={tmp_path / f'{name}{i}.npy'}"]
    found = ok_json("verify", path, "--backend", "torch", *arguments)
    assert found["ok"] and found["inputs"] == 2
    result = call("verify", path, "--backend", "torch", *arguments[:-2])
    assert result.exit_code == 2 and "each input of the network gets as many" in result.stderr


def test_verify_says_no(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A net that computes something else: exit code 1, and the first region that is wrong."""
    compiled = compiling.compile
    other = saved(tmp_path, classifier(weights={"right.w": np.ones((5, 8, 1, 1), np.float32)}), "other.onnx")
    monkeypatch.setattr("optgraph.compare.verify.compile", lambda path, *rest, **more: compiled(other, *rest, **more))
    result = call("verify", model, "--backend", "torch", "--json")
    assert result.exit_code == 1 and result.stderr == ""
    found = json.loads(result.stdout)
    assert found["ok"] is False and found["reason"]
    assert "/right/Conv" in found["first_bad_region"]["onnx_nodes"]
    result = call("verify", model, "--backend", "torch")
    assert result.exit_code == 1 and "not ok: " in result.stdout and "/right/Conv" in result.stdout


def test_verify_an_artifact(tmp_path: Path, model: Path) -> None:
    ok("compile", model)
    artifact = model.with_suffix(".optgraph")
    assert "ok" in ok("verify", artifact)
    moved = model.rename(tmp_path / "moved.onnx")
    result = call("verify", artifact)
    assert result.exit_code == 2 and "no such file" in result.stderr
    assert ok_json("verify", artifact, "--original", moved)["ok"]
    other = saved(tmp_path, classifier(op="Sigmoid"), "other.onnx")
    result = call("verify", artifact, "--original", other)
    assert result.exit_code == 2 and "not what model.optgraph was compiled from" in result.stderr


def test_bench(model: Path) -> None:
    found = ok_json("bench", model, "--backend", "torch", "--batch", 2, "--threads", 1)
    assert (found["backend"], found["against"], found["batch"], found["threads"]) == ("torch", "onnxruntime", 2, 1)
    for side in ("ours", "theirs"):
        assert 0 < found["spread"][side]["min"] <= found[f"{side}_ms"] <= found["spread"][side]["max"]
    assert found["ratio_of_medians"] == found["theirs_ms"] / found["ours_ms"]


def test_bench_as_long_as_asked(tmp_path: Path, model: Path) -> None:
    quick = ("--backend", "torch", "--batch", 2, "--duration", 0, "--repeats", 5, "--warm-up", 2)
    found = ok_json("bench", model, *quick, "--csv", tmp_path / "runs.csv")
    assert (found["repeats"], found["warm_up"]) == (5, 2) and "runs" not in found
    header, *rows = [line.split(",") for line in (tmp_path / "runs.csv").read_text().splitlines()]
    assert header == ["size", "pair", "optgraph_ms", "onnxruntime_ms"] and [row[1] for row in rows] == list("01234")
    for side, column in (("ours", 2), ("theirs", 3)):
        times = [float(row[column]) for row in rows]
        spread = found["spread"][side]
        assert np.median(times) == pytest.approx(found[f"{side}_ms"]) and max(times) == pytest.approx(spread["max"])
        assert spread["min"] <= found[f"{side}_ms"] <= spread["p90"] <= spread["p99"] <= spread["max"]
        assert found["images_per_second"][side] == pytest.approx(2e3 / found[f"{side}_ms"])
    result = call("bench", model, *quick, "--csv", model)
    assert result.exit_code == 2 and "is the input itself" in result.stderr


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_a_shape_that_the_model_fixes_otherwise(tmp_path: Path, backend: str) -> None:
    """It is taken, by every command, and that is said."""
    model = saved(tmp_path, classifier(shape=(1, 3, 12, 12)), "fixed.onnx")
    note = "note: the model fixes input 'x' to 1,3,12,12, and the given shape makes it N,3,9,11\n"
    shape = ("--input-shape", "N,3,9,11")
    commands: list[tuple[object, ...]] = [
        ("bench", model, "--backend", backend, "--duration", 0, "--repeats", 1, "--batch", 2),
        ("verify", model, "--backend", backend),
        ("run", model, "--backend", backend),
        ("compile", model),
        ("check", model),
        ("inspect", model),
        ("optimize", model, "-o", tmp_path / "less.onnx"),
    ]
    for command in commands:
        result = call(*command, *shape, "--json")
        assert (result.exit_code, result.stderr) == (0, note), command
        assert json.loads(result.stdout)
        assert call(*command, *shape, "-q").stderr == ""
    assert call("check", model, "--input-shape", "1,3,12,12").stderr == ""
    assert call("check", saved(tmp_path), *shape).stderr.count("note: ") == 1
    assert call("check", saved(tmp_path, classifier(shape=("n", 3, "h", "w"))), *shape).stderr == ""


def test_bench_on_pictures(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are the batch, made ready as for run; a table of times is written over none of them."""
    seen: list[np.ndarray] = []

    def interleave(ours: Callable[[], Any], *_: object) -> tuple[list[float], list[float]]:
        seen.append(ours()["y"])
        return [0.004] * 3, [0.008] * 3

    monkeypatch.setattr("optgraph.compare.bench.interleave", interleave)
    for i in range(3):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (9, 14, 3), np.uint8)).save(tmp_path / f"{i}.png")
    files = [part for i in range(3) for part in ("--input", tmp_path / f"{i}.png")]
    assert ok_json("bench", model, *files, "--preprocess", "torch", "--backend", "torch")["batch"] == 3
    shown = ok("bench", model, *files, "--preprocess", "torch")
    assert shown.startswith("0.png: 9x14 -> shorter side 14, centre 12x12") and "2.png: 9x14" in shown
    eight = saved(tmp_path, classifier(shape=(8, 3, 12, 12)), "eight.onnx")
    assert ok_json("bench", eight)["batch"] == 8
    assert ok_json("bench", eight, *(files * 3)[:16])["batch"] == 8
    ok("run", model, *files, "--preprocess", "torch", "--backend", "torch", "-o", tmp_path / "y.npy")
    close(seen[0], np.load(tmp_path / "y.npy"))
    result = call("bench", model, *files, "--batch", 2)
    assert result.exit_code == 2 and "batch 2: the images given are 3" in result.stderr
    result = call("bench", model, *files, "--csv", tmp_path / "1.png")
    assert result.exit_code == 2 and "is the input itself" in result.stderr
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 12, 13), np.float32))
    result = call("bench", model, "--input", tmp_path / "x.npy")
    assert result.exit_code == 2 and "expects float32 of shape [N, 3, 12, 12]" in result.stderr


def test_bench_shows_what_was_measured(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optgraph.compare.bench.interleave", lambda *_: ([0.004, 0.006, 0.005], [0.008, 0.018, 0.01]))
    found = ok_json("bench", model)
    times = {key: found[key] for key in ("ours_ms", "theirs_ms", "ratio", "repeats")}
    assert times == pytest.approx({"ours_ms": 5.0, "theirs_ms": 10.0, "ratio": 2.0, "repeats": 3})
    out = ok("bench", model)
    for text in (
        "optgraph       5.00",
        "onnxruntime   10.00",
        "speed-up",
        "2.00× by pairs",
    ):
        assert text in out


def test_an_input_that_there_is_not(tmp_path: Path, model: Path) -> None:
    """One name of an input mistaken is not taken for a file; a file with such a name is one."""
    for argument in ("z=random", "z=x.npy"):
        result = call("run", model, "--input", argument)
        assert (
            result.exit_code == 2 and f"{argument}: no such file, and no input 'z': the network has x" in result.stderr
        )
    np.save(tmp_path / "z=x.npy", np.zeros((1, 3, 12, 12), np.float32))
    assert ok_json("run", model, "--input", tmp_path / "z=x.npy")["outputs"]
