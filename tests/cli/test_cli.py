"""The command line: what each command prints, writes and exits with."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from PIL import Image

from optgraph.api import net
from optgraph.cli import main
from optgraph.onnx.calibrate import strip
from tests.support.cli_models import NODES, call, classifier, ok, ok_json, saved


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return saved(tmp_path)


def expected(model: Path, x: np.ndarray) -> np.ndarray:
    """What ONNX Runtime gives for a model of one input and one output."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def close(got: np.ndarray, reference: np.ndarray) -> None:
    assert got.shape == reference.shape
    assert np.linalg.norm(got - reference) <= 1e-5 * np.linalg.norm(reference)


# ---- compile, inspect


def test_compile_writes_beside_the_model_and_reports(model: Path) -> None:
    out = ok("compile", model, "--batch", "1,8")
    assert model.with_suffix(".optgraph").is_file()
    for text in (
        "batchnorm",
        f"{NODES}, simplified to",
        "at batch 1, ",
        "at batch 8",
        "placement",
        "on an H100 SXM; not measured",
    ):
        assert text in out


def test_compile_json(tmp_path: Path, model: Path) -> None:
    output = tmp_path / "other.optgraph"
    found = ok_json("compile", model, "-o", output, "--batch", "2,6")
    assert found["output"] == str(output) and output.is_file()
    assert found["nodes"] == NODES
    assert found["fallbacks"] == []
    assert found["arena_bytes_by_batch"]["6"] > 2 * found["arena_bytes_by_batch"]["2"] > 0
    rewrites = {p["name"]: p["rewrites"] for p in found["passes"]}
    assert rewrites["remove_noops"] == rewrites["batchnorm"] == rewrites["merge_siblings"] == 1
    assert found["passes"][-1]["nodes_after"] == found["fused_nodes"] < found["simplified_nodes"] < NODES
    assert all(p["ms"] >= 0 for p in found["passes"])


def test_inspect_json(model: Path) -> None:
    """The stem, the merged siblings, the pool, the matrix and the softmax; the concat costs nothing."""
    found = ok_json("inspect", model)
    assert found["launches"] == 5 == sum(found["launches_by_kernel"].values())
    assert found["nodes"] == NODES
    # 3×12×12 in, 8×12×12 out and in again, 11×12×12 out and in again, 11 out and in, 10 out, in and out.
    assert found["bytes_per_image"]["after"] == 4 * (144 * (3 + 2 * 8 + 2 * 11) + 2 * 11 + 3 * 10)
    assert found["bytes_per_image"]["before"] > 2 * found["bytes_per_image"]["after"]
    # The batchnorm has become a bias of the stem; the siblings gain one each or none.
    assert found["weight_bytes"] >= 4 * (8 * 27 + 8 + 11 * 8 + 110 + 10)
    assert found["arena_bytes"] >= 4 * 144 * (8 + 11)


def test_inspect_counts_fp16_in_half(model: Path) -> None:
    single, half = (ok_json("inspect", model, "--dtype", dtype) for dtype in ("fp32", "fp16"))
    assert half["weight_bytes"] == single["weight_bytes"] / 2
    assert half["bytes_per_image"]["before"] == single["bytes_per_image"]["before"] / 2


def test_inspect_of_an_artifact_is_that_of_its_model(model: Path) -> None:
    ok("compile", model, "--dtype", "fp16", "--batch", "4")
    found = ok_json("inspect", model.with_suffix(".optgraph"))
    of_model = ok_json("inspect", model, "--dtype", "fp16")
    for key in ("arena_bytes", "arena_bytes_by_batch"):
        assert found.pop(key) != of_model.pop(key)
    assert found == of_model


def test_inspect_lists_the_fused_graph(model: Path) -> None:
    out = ok("inspect", model)
    assert "y: N×10 = Softmax[axis=1](x=logits" in out
    assert "MergedPointwise" in out


def test_inspect_cost(model: Path) -> None:
    found = ok_json("inspect", model, "--dtype", "fp16", "--cost", "--batch", "8", "--target", "sm_80")
    cost = found["cost"]
    assert (cost["target"], cost["batch"], len(cost["launches"])) == ("sm_80", 8, found["launches"])
    assert cost["launches"][0]["kernel"] == "conv2d"
    assert cost["launches"][0]["flops"] == 2 * 8 * 144 * 8 * 27
    assert (
        cost["launches"][0]["read_bytes"] == 8 * 4 * 144 * 3 and cost["launches"][0]["written_bytes"] == 8 * 2 * 144 * 8
    )
    assert "cost" not in ok_json("inspect", model)
    out = ok("inspect", model, "--cost")
    assert "on an H100 SXM at batch 1; not measured" in out and "8×12×12" not in out
    assert "pointwise" in out and "MergedPointwise[" not in out


def test_inspect_cost_of_an_unknown_device(model: Path) -> None:
    result = call("inspect", model, "--cost", "--target", "sm_70")
    assert (result.exit_code, result.stderr) == (2, "error: no prediction for target 'sm_70': use sm_90 or sm_80\n")


def test_inspect_dot(tmp_path: Path, model: Path) -> None:
    found = ok_json("inspect", model, "--dot", tmp_path / "graph.dot")
    dot = (tmp_path / "graph.dot").read_text()
    assert dot.count(" [label=") == found["fused_nodes"] + 2
    assert '"Softmax[axis=1]\\nN×10"' in dot
    assert dot.count("->") >= found["fused_nodes"] + 1
    assert dot.startswith("digraph {") and dot.endswith("}\n")


def test_a_fallback_is_reported(tmp_path: Path) -> None:
    path = saved(tmp_path, classifier(op="Erf"))
    (fallback,) = ok_json("inspect", path)["fallbacks"]
    assert fallback["op"] == "Erf" and "/act/Erf" in fallback["node"] and fallback["reason"]
    out = ok("compile", path)
    assert f"{fallback['node']} (Erf): {fallback['reason']}" in out


def test_a_fixed_batch_counts_per_image(tmp_path: Path, model: Path) -> None:
    fixed = saved(tmp_path, classifier(shape=(4, 3, 12, 12)), "fixed.onnx")
    assert ok_json("inspect", fixed)["bytes_per_image"] == ok_json("inspect", model)["bytes_per_image"]


# ---- run


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
    assert f"{y.argmax()} ({y.max():.4g})" in out and "1×10" in out and "ms on onnxruntime" in out


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
        (("--input", tmp_path / "a.npy"), "left, right"),
        ((*pair[:2], "--input", "left=random"), "different batch sizes"),
    ):
        result = call("run", model, *arguments)
        assert result.exit_code == 2 and says in result.stderr
    ok("run", model, "--input", "right=random", "--input", "random")


def test_json_has_no_nan(tmp_path: Path, model: Path) -> None:
    np.save(tmp_path / "x.npy", np.full((1, 3, 12, 12), np.nan, np.float32))
    found = ok_json("run", model, "--input", tmp_path / "x.npy", "--backend", "torch")
    assert found["outputs"]["y"]["top"][0][0]["score"] is None


# ---- verify, optimize, calibrate


@pytest.mark.parametrize("backend", ["onnxruntime", "interpret"])
def test_verify(model: Path, backend: str) -> None:
    found = ok_json("verify", model, "--backend", backend, "--batch", 2)
    assert found["ok"] is True and found["backend"] == backend and found["batch"] == 2
    assert 0 < found["outputs"][0]["rel_l2"] < found["bound"]
    assert found["first_bad_region"] is None


def test_verify_says_no(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A net that computes something else: exit code 1, and the first region that is wrong."""
    compiled = net.compile
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


def test_optimize(tmp_path: Path, model: Path) -> None:
    output = tmp_path / "small.onnx"
    found = ok_json("optimize", model, "-o", output)
    small = onnx.load(output)
    onnx.checker.check_model(small, full_check=True)
    assert found["nodes"] == NODES and found["optimized_nodes"] == len(small.graph.node) < NODES - 1
    x = np.random.default_rng(4).standard_normal((2, 3, 12, 12)).astype(np.float32)
    close(expected(output, x), expected(model, x))
    assert f"{NODES} operators before, {len(small.graph.node)} after" in ok("optimize", model, "-o", output)


def test_calibrate(tmp_path: Path) -> None:
    stripped = saved(tmp_path, strip(classifier(width=512)), "stripped.onnx")
    result = call("compile", stripped)
    assert result.exit_code == 2 and "'stem.w' was stripped" in result.stderr and "calibrate" in result.stderr
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        ok("calibrate", stripped, tmp_path / f"{name}.onnx", "--seed", seed, "--size", 24)
    a, b, c = ((tmp_path / f"{name}.onnx").read_bytes() for name in "abc")
    assert a == b != c
    ok("verify", tmp_path / "a.onnx")


def test_bench(model: Path) -> None:
    found = ok_json("bench", model, "--backend", "torch", "--batch", 2, "--threads", 1)
    assert (found["backend"], found["against"], found["batch"], found["threads"]) == ("torch", "onnxruntime", 2, 1)
    assert found["ours_ms"] > 0 and found["theirs_ms"] > 0 and found["ratio"] > 0
    out = ok("bench", model)
    assert "speed-up" in out and "ms" in out


# ---- the program


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

    monkeypatch.setattr("optgraph.api.net.lower", fail)
    result = call("inspect", model)
    assert result.exit_code == 3 and says in result.stderr and result.stderr.count("\n") == 1
    monkeypatch.setenv("OPTGRAPH_DEBUG", "1")
    if isinstance(error, ZeroDivisionError):
        assert "Traceback" in call("inspect", model).stderr
