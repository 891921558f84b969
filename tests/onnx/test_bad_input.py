"""Bad input at the command line: one line that names the culprit and the remedy, code 2, and no file lost."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from optgraph.base.errors import InputError
from optgraph.base.files import replacing
from tests.support.cli_models import call, classifier, ok, saved


def refused(*arguments: object, says: tuple[str, ...]) -> None:
    """Asserts that the command is refused as it should be, in one line that has all of `says`."""
    result = call(*arguments)
    assert result.exit_code == 2, f"{result.exit_code}: {result.output}"
    assert result.stdout == ""
    assert result.stderr.startswith("error: "), result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert "Traceback" not in result.stderr
    for text in says:
        assert text in result.stderr


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return saved(tmp_path)


@pytest.fixture
def artifact(model: Path) -> Path:
    ok("compile", model)
    return model.with_suffix(".optgraph")


# ---- models


@pytest.mark.parametrize("command", ["compile", "run", "verify", "inspect", "bench"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such file"),
        (b"", "not an ONNX model"),
        (b"this is no model\n" * 50, "not an ONNX model"),
        (classifier().SerializeToString()[:-700], "truncated"),
    ],
)
def test_a_file_that_is_no_model(tmp_path: Path, command: str, content: bytes | None, says: str) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    refused(command, path, says=(str(path), says))
    assert not path.with_suffix(".optgraph").exists()


@pytest.mark.parametrize("command", ["optimize", "calibrate"])
def test_a_file_that_is_no_model_leaves_the_output(tmp_path: Path, command: str) -> None:
    path, output = tmp_path / "model.onnx", tmp_path / "out.onnx"
    path.write_bytes(classifier().SerializeToString()[:-700])
    output.write_bytes(b"kept")
    refused(command, path, *(["-o", output] if command == "optimize" else [output]), says=(str(path), "truncated"))
    assert output.read_bytes() == b"kept"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "out.onnx"]


def test_a_directory_for_a_model(tmp_path: Path) -> None:
    refused("compile", tmp_path, says=(str(tmp_path), "not a file"))


def test_no_name_for_a_model() -> None:
    for command in ("compile", "run", "verify", "inspect", "bench", "check"):
        refused(command, "", says=("not a file",))


def test_a_model_in_a_pipe(tmp_path: Path) -> None:
    """It is no file to be written beside, nor one that can be read twice."""
    refused("compile", "/dev/stdin", says=("/dev/stdin: say where to write the compiled network, with -o FILE",))
    refused("compile", "/proc/self/fd/0", says=("with -o FILE.optgraph",))
    os.mkfifo(tmp_path / "pipe")
    refused("compile", tmp_path / "pipe", says=("pipe: not a file",))


def test_a_model_by_the_name_of_an_artifact(model: Path) -> None:
    """What a file is, it says itself."""
    other = model.with_suffix(".optgraph")
    other.write_bytes(model.read_bytes())
    for command in ("run", "verify", "inspect", "check"):
        ok(command, other)
    refused("compile", other, says=("is the input itself: name another output",))
    ok("compile", other, "-o", model.parent / "named.bin")
    for command in ("run", "inspect"):
        ok(command, model.parent / "named.bin")
    for command in ("check", "calibrate", "optimize"):
        more = {"calibrate": [model.parent / "o.onnx"], "optimize": ["-o", model.parent / "o.onnx"]}.get(command, [])
        refused(command, model.parent / "named.bin", *more, says=("named.bin: is compiled already",))


def test_an_empty_graph(tmp_path: Path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])
    path = saved(tmp_path, helper.make_model(helper.make_graph([], "empty", [x], [x])))
    refused("compile", path, says=("no operators",))


def test_an_operator_nobody_knows(tmp_path: Path) -> None:
    path = saved(tmp_path, classifier(op="Frobnicate"))
    refused("compile", path, says=("'/act/Frobnicate'", "no operator Frobnicate", "standard operators"))


def test_an_open_size(tmp_path: Path) -> None:
    path = saved(tmp_path, classifier(shape=("n", 3, "h", "w")))
    refused("compile", path, says=("'x'", "--input-shape N,3,"))
    assert "wrote" in ok("compile", path, "--input-shape", "N,3,12,12")


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        (("--input-shape", "N,3,a,12"), "N or a number for each dimension"),
        (("--input-shape", ""), "N or a number for each dimension"),
        (("--input-shape", "N,3,12"), "4 dimensions, the given shape 3"),
        (("--input-shape", "z=N,3,12,12"), "no input 'z'"),
        (("--input-shape", "N,3,12,12", "--input-shape", "N,3,12,12"), "NAME="),
        (("--input-shape", "N,3,N,12"), "dimension 2 open"),
        (("--input-shape", "N,4,12,12"), "node "),
    ],
)
def test_a_wrong_input_shape(model: Path, shape: tuple[str, ...], says: str) -> None:
    refused("inspect", model, *shape, says=(says,))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("command", ["compile", "optimize"])
def test_a_weight_that_is_not_finite(tmp_path: Path, command: str, bad: float) -> None:
    weight = np.ones((6, 8, 1, 1), np.float32)
    weight[3, 2] = bad
    path = saved(tmp_path, classifier(weights={"left.w": weight}))
    output = tmp_path / "out"
    refused(command, path, "-o", output, says=("weight 'left.w'", "'/left/Conv'", "1 of 48", "export"))
    assert not output.exists()


def test_an_infinite_bound_is_none(tmp_path: Path) -> None:
    """A Clip without an upper bound is a ReLU."""
    model = classifier()
    clip = next(node for node in model.graph.node if node.name == "/act/Relu")
    clip.op_type = "Clip"
    clip.input.extend(["low", "high"])
    model.graph.initializer.extend(
        helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in (("low", 0.0), ("high", np.inf))
    )
    ok("compile", saved(tmp_path, model))


def test_a_name_cannot_break_the_line_or_the_terminal(tmp_path: Path) -> None:
    model = classifier(op="Frobnicate")
    model.graph.node[3].name = "two\nlines \x1b[2J"
    refused("compile", saved(tmp_path, model), says=("two lines  [2J",))


# ---- options


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("run", "--backend", "cuda"), "unknown backend 'cuda': use auto, triton"),
        (("run", "--dtype", "int4"), "unknown dtype 'int4': use fp32"),
        (("verify", "--dtype", "int4"), "unknown dtype 'int4': use fp32"),
        (
            ("verify", "--dtype", "int8"),
            "dtype int8: the model says nowhere, by one scale a tensor, what 8 bits are to stand for",
        ),
        (("compile", "--batch", "1,x"), "--batch 1,x: expects sizes such as 1,8"),
        (("compile", "--batch", "0"), "--batch 0"),
        (("compile", "--batch", ""), "--batch"),
        (("compile", "--batch", "9" * 30), "a batch has at most 2147483647 images"),
        (("inspect", "--cost", "--batch", "9" * 30), "a batch has at most 2147483647 images"),
        (("bench", "--batch", "9" * 30), "a batch has at most 2147483647 images"),
        (("verify", "--batch", "9" * 30), "a batch has at most 2147483647 images"),
        (("bench", "--threads", "100000"), "threads are at least 1, and at most 1024"),
        (("compile", "--target", ""), "unknown target ''"),
        (("compile", "--target", "h100,"), "unknown target ''"),
        (("bench", "--against", "tvm"), "tvm"),
    ],
)
def test_an_option_out_of_range(model: Path, options: tuple[str, ...], says: str) -> None:
    command, *rest = options
    refused(command, model, *rest, says=(says,))


def test_a_batch_the_model_does_not_have(tmp_path: Path) -> None:
    path = saved(tmp_path, classifier(shape=(2, 3, 12, 12)))
    refused("compile", path, "--batch", 8, says=("batch",))


# ---- inputs


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((1, 3, 12, 12)), ("float32 of shape [N, 3, 12, 12]", "got float64", "astype")),
        (np.zeros((1, 3, 12, 11), np.float32), ("float32 of shape [N, 3, 12, 12]", "got [1, 3, 12, 11]")),
        (np.zeros((3, 12, 12), np.float32), ("got [3, 12, 12]",)),
        (np.zeros((0, 3, 12, 12), np.float32), ("got [0, 3, 12, 12]",)),
    ],
)
def test_an_input_that_does_not_fit(tmp_path: Path, model: Path, array: np.ndarray, says: tuple[str, ...]) -> None:
    np.save(tmp_path / "x.npy", array)
    output = tmp_path / "y.npy"
    output.write_bytes(b"kept")
    refused("run", model, "--input", tmp_path / "x.npy", "--output", output, says=("input 'x'", *says))
    assert output.read_bytes() == b"kept"


@pytest.mark.parametrize("name", ["x.npy", "x.png", "x.jpg"])
@pytest.mark.parametrize("content", [None, b"", b"neither an array nor an image"])
def test_an_input_file_that_is_none(tmp_path: Path, model: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    refused("run", model, "--input", tmp_path / name, says=(str(tmp_path / name),))


def test_truncated_input_files(tmp_path: Path, model: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 12, 12), np.float32))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(tmp_path / "x.png")
    for name in ("x.npy", "x.png"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:-200])
        refused("run", model, "--input", path, says=(str(path),))


def test_pickles_are_not_read(tmp_path: Path, model: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{}], object), allow_pickle=True)
    refused("run", model, "--input", tmp_path / "x.npy", says=("not a file of numbers",))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("z=random",), "z=random: no such file, and no input 'z': the network has x"),
        (("x=random", "x=random"), "'x' is given 'random' and more"),
        (("cat.gif",), ".png"),
    ],
)
def test_input_arguments(model: Path, arguments: tuple[str, ...], says: str) -> None:
    refused("run", model, *[a for value in arguments for a in ("--input", value)], says=(says,))


def test_an_image_for_an_input_that_takes_none(tmp_path: Path) -> None:
    model = classifier(shape=("n", 4, 12, 12), weights={"stem.w": np.ones((8, 4, 3, 3), np.float32)})
    Image.new("RGB", (9, 9)).save(tmp_path / "x.png")
    refused("run", saved(tmp_path, model), "--input", tmp_path / "x.png", says=("takes no picture", ".npy"))


# ---- outputs


def outputs(model: Path, output: Path) -> list[list[object]]:
    """Every command that writes, told to write to `output`."""
    return [
        ["compile", model, "-o", output],
        ["optimize", model, "-o", output],
        ["inspect", model, "--dot", output],
        ["run", model, "-o", output.with_suffix(".npy")],
        ["calibrate", model, output],
    ]


def test_no_such_directory(tmp_path: Path, model: Path) -> None:
    for command in outputs(model, tmp_path / "none" / "out"):
        refused(*command, says=(str(tmp_path / "none" / "out"), "directory"))


def test_a_directory_that_takes_no_files(model: Path) -> None:
    for command in outputs(model, Path("/proc/out")):
        refused(*command, says=("/proc/out", "cannot be written"))


def test_a_path_under_a_file(tmp_path: Path, model: Path) -> None:
    for command in outputs(model, model / "out"):
        refused(*command, says=(str(model / "out"),))
    onnx.load(model)


def test_a_directory_for_an_output(tmp_path: Path, model: Path) -> None:
    directory = tmp_path / "out.npy"
    directory.mkdir()
    for command in outputs(model, directory):
        refused(*command, says=(str(directory), "is a directory"))


def test_a_device_is_not_replaced(model: Path) -> None:
    for command in outputs(model, Path("/dev/null"))[:3]:
        refused(*command, says=("/dev/null", "regular file"))
    assert Path("/dev/null").is_char_device()


def test_the_model_is_never_overwritten(tmp_path: Path, model: Path) -> None:
    before = model.read_bytes()
    (tmp_path / "link").symlink_to(model)
    for output in (model, tmp_path / ".." / tmp_path.name / model.name, tmp_path / "link"):
        for command in outputs(model, output)[:3]:
            refused(*command, says=("is the input itself",))
        refused("calibrate", model, output, says=("is the input itself",))
    assert model.read_bytes() == before


def test_a_result_of_an_unknown_kind(tmp_path: Path, model: Path) -> None:
    refused("run", model, "--output", tmp_path / "y.txt", says=("y.txt", ".npy"))


def test_a_write_that_fails_half_way(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"kept")
    with pytest.raises(InputError, match="out: cannot be written: No space left"), replacing(path) as file:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_bytes() == b"kept"
    assert list(tmp_path.iterdir()) == [path]


# ---- artifacts


@pytest.mark.parametrize("command", ["run", "verify", "inspect", "bench"])
def test_a_damaged_artifact(artifact: Path, command: str) -> None:
    whole = artifact.read_bytes()
    for damaged in (b"", whole[:7], whole[: len(whole) // 2], whole[:-1], b"\0" * len(whole), b"{}" * 100):
        artifact.write_bytes(damaged)
        refused(command, artifact, says=(str(artifact), "compile"))


def test_an_artifact_of_another_version(artifact: Path) -> None:
    from optgraph.api import artifact as module

    whole = artifact.read_bytes()
    size = int.from_bytes(whole[:8], "little")
    header = whole[8 : 8 + size]
    current = f'"format":"{module.FORMATS[0]}"'.encode()
    assert header.count(current) == 1
    header = header.replace(current, b'"format":"999"')
    artifact.write_bytes(len(header).to_bytes(8, "little") + header + whole[8 + size :])
    refused("run", artifact, says=(str(artifact), "999", "compile"))


def test_options_an_artifact_has_settled(artifact: Path) -> None:
    for command in ("run", "inspect", "verify", "bench"):
        for option in (("--dtype", "fp16"), ("--input-shape", "N,3,24,24")):
            refused(command, artifact, *option, says=(str(artifact), "are settled", "to compile"))


def test_an_artifact_is_not_compiled_again(tmp_path: Path, artifact: Path) -> None:
    for output in ([], ["-o", tmp_path / "b.optgraph"]):
        refused("compile", artifact, *output, says=("is compiled already",))


def test_a_failed_compile_keeps_the_old_artifact(model: Path, artifact: Path) -> None:
    before = artifact.read_bytes()
    onnx.save(classifier(op="Frobnicate"), model)
    refused("compile", model, says=("Frobnicate",))
    assert artifact.read_bytes() == before
    assert sorted(p.name for p in model.parent.iterdir()) == ["model.onnx", "model.optgraph"]
