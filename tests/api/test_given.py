"""What users give: arrays of any layout, a text where a list is meant, and what is no model at all."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import optgraph
from optgraph.api import check
from tests.support.cli_models import classifier, saved
from tests.support.open_sizes import detector

SHAPE = (2, 3, 12, 12)


def image(dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(0).standard_normal(SHAPE).astype(dtype)


def read_only(x: np.ndarray) -> np.ndarray:
    x.flags.writeable = False
    return x


def field(x: np.ndarray) -> np.ndarray:
    records = np.zeros(x.shape, [("x", "f4"), ("other", "u1")])
    records["x"] = x
    return records["x"]


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "read-only": read_only,
    "rows upside down": lambda x: x[:, :, ::-1].copy()[:, :, ::-1],
    "batch backwards": lambda x: x[::-1].copy()[::-1],
    "one image, backwards": lambda x: x[:1][::-1],
    "channels last": lambda x: x.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2),
    "part of a larger one": lambda x: np.pad(x, 1)[1:-1, 1:-1, 1:-1, 1:-1],
    "big-endian": lambda x: x.astype(">f4"),
    "big-endian and backwards": lambda x: x.astype(">f4")[..., ::-1].copy()[..., ::-1],
    "repeated": lambda x: np.broadcast_to(x[:1], x.shape),
    "of records": field,
    "misaligned": lambda x: np.frombuffer(b"?" + x.tobytes(), np.uint8)[1:].view("f4").reshape(x.shape),
    "nothing masked": np.ma.masked_array,
}


@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "interpret"])
def test_arrays_of_any_layout(backend: str) -> None:
    net = optgraph.compile(classifier(), backend)
    for name, laid in LAYOUTS.items():
        x = laid(image())
        wanted, before = net(np.array(x, "f4", order="C")), np.array(x)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for call in (net, net.bind(len(x))):
                np.testing.assert_allclose(np.asarray(call(x)), wanted, rtol=1e-5, err_msg=name)
        np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "interpret"])
def test_tensors_whose_sign_is_still_to_come(backend: str) -> None:
    net, x = optgraph.compile(classifier(), backend), torch.from_numpy(image())
    conjugate = torch.complex(x, -x).conj().imag
    assert conjugate.is_neg() and torch.equal(conjugate, x)
    wanted = net(x)
    for call in (net, net.bind(len(x))):
        torch.testing.assert_close(call(conjugate), wanted)


@pytest.mark.filterwarnings("ignore")  # nested tensors are a prototype
def test_names_that_are_no_text_and_tensors_without_a_shape_are_told() -> None:
    net = optgraph.compile(classifier(), "torch")
    for given, message in (
        ({b"x": image()}, "inputs are x; got b'x'"),
        ({0: image()}, "inputs are x; got 0"),
        (torch.nested.nested_tensor([torch.zeros(SHAPE[1:])], layout=torch.jagged), "got a"),
        (torch.nested.nested_tensor([torch.zeros(SHAPE[1:])]), "got a nested tensor"),
    ):
        with pytest.raises(optgraph.InputError, match=message):
            net(given)  # type: ignore[arg-type]


def test_a_mask_is_not_ignored() -> None:
    x = np.ma.masked_array(image(), image() > 1)
    with pytest.raises(optgraph.InputError, match="masked: fill in"):
        optgraph.compile(classifier(), "torch")(x)


@pytest.mark.parametrize(
    "x",
    [
        image("float64"),
        image("float16"),
        np.zeros(SHAPE, np.uint8),
        torch.zeros(SHAPE, dtype=torch.float64),
        image()[0],
        torch.zeros(SHAPE[1:]),
        image().transpose(0, 2, 3, 1),
        torch.zeros(2, 12, 12, 3),
    ],
)
def test_what_is_to_be_done_can_be_pasted(x: np.ndarray | torch.Tensor) -> None:
    net = optgraph.compile(classifier(), "torch")
    with pytest.raises(optgraph.InputError, match="expects float32 of shape") as error:
        net(x)
    remedy = re.search(r"x[.\[](?:[a-z]+\(.*\)|None\])", str(error.value))
    assert remedy
    assert net(eval(remedy[0], {"x": x, "torch": torch})).shape[1] == 10


def test_verify_and_ranges_on_what_a_call_takes(tmp_path: Path) -> None:
    path = saved(tmp_path)
    backwards, tensor = image()[:, :, ::-1], torch.from_numpy(image())
    for inputs, count in ((backwards, 1), ({"x": tensor}, 1), ([backwards, {"x": tensor}], 2)):
        found = optgraph.verify(path, "torch", inputs=inputs)
        assert found.ok and (found.inputs, found.batch) == (count, 2)
        optgraph.compile(path, "torch", "fp16", keep_fp32="auto", inputs=inputs)
    with pytest.raises(optgraph.InputError, match="got float64"):
        optgraph.compile(path, "torch", "fp16", keep_fp32="auto", inputs=[image("float64")])


def test_one_text_where_several_could_be() -> None:
    model = classifier()
    assert list(optgraph.compile(model, "torch", outputs="left").outputs) == ["left"]
    assert optgraph.compile(model, "torch", input_shape="5,3,8,9").inputs["x"].shape == (5, 3, 8, 9)
    assert optgraph.compile(model, "torch", input_shape={"x": "N, 3, 8, 9"}).inputs["x"].shape[2:] == (8, 9)
    assert optgraph.read(model, (None, 3, np.int64(8), 9)).values["x"].shape == ("N", 3, 8, 9)
    assert check.check(model, "N,3,8,9", "left").ok
    assert optgraph.compile(model, "torch", batches=4).batches == (4,)
    assert optgraph.compile(detector(), "torch", sizes=(16, 24)).sizes == ((16, 24),)
    names = {cubin.target for cubin in optgraph.compile(model, "torch", outputs="pooled", targets="sm_90").cubins}
    assert names == {"sm_90"}


def test_a_plan_is_for_a_target_by_its_name() -> None:
    net = optgraph.compile(classifier(), "torch")
    assert str(net.plan(2, "a100").target) == "sm_80"
    assert net.plan(2, "sm_90") is net.plan(2)
    with pytest.raises(optgraph.InputError, match="unknown target 'h1000'"):
        net.plan(2, "h1000")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"input_shape": "N,3,big,9"}, "N,3,big,9 is no shape: expects N or a number"),
        ({"input_shape": (None, 3, 8.5, 9)}, "is no shape"),
        ({"input_shape": 7}, "7 is no shape"),
        ({"batches": ()}, "expects numbers of images"),
        ({"batches": "8"}, "expects numbers of images"),
        ({"batches": (1, 0)}, "expects numbers of images"),
        ({"targets": "sm_90,h1000"}, "unknown target 'h1000'"),
    ],
)
def test_what_is_none_of_these(options: dict[str, object], says: str) -> None:
    with pytest.raises(optgraph.InputError, match=says):
        optgraph.compile(classifier(), "torch", **options)  # type: ignore[arg-type]


def test_the_bytes_of_a_model() -> None:
    model = classifier()
    data = model.SerializeToString()
    wanted = optgraph.compile(model, "torch")(image())
    for given in (data, bytearray(data), memoryview(data)):
        np.testing.assert_array_equal(optgraph.compile(given, "torch")(image()), wanted)  # type: ignore[arg-type]
    assert len(optgraph.read(data)) == len(optgraph.read(model))  # type: ignore[arg-type]
    for damaged in (b"", b"no model", data[:-700]):
        with pytest.raises(optgraph.ModelError) as error:
            optgraph.compile(damaged, "torch")  # type: ignore[arg-type]
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (torch.zeros(SHAPE).to_sparse(), r"got a sparse tensor: make it dense, x.to_dense\(\)"),
        (torch.zeros(SHAPE, device="meta"), "of the meta device, which has no numbers"),
        (image().astype(complex), "got complex128"),
        (image().astype(object), "got object"),
    ],
)
def test_what_has_no_such_numbers(x: object, says: str) -> None:
    net = optgraph.compile(classifier(), "torch")
    for call in (net, net.bind(2)):
        with pytest.raises(optgraph.InputError, match=says):
            call(x)  # type: ignore[operator]


def test_what_is_no_batch() -> None:
    net = optgraph.compile(classifier(), "torch", batches=np.int64(2))  # type: ignore[arg-type]
    assert net.batches == (2,) and net.bind(np.int64(2)).batch == 2  # type: ignore[arg-type]
    for call in (net.bind, net.plan):
        for batch in (2.5, "2", None):
            with pytest.raises(optgraph.InputError, match="expects a number of images"):
                call(batch)  # type: ignore[operator]


def test_what_is_no_path(tmp_path: Path) -> None:
    net = optgraph.compile(classifier(), "torch")
    for path, says in (("a\0b", "with a null character"), ("a" * 5000, "no path of a file: File name too long")):
        for function in (optgraph.compile, optgraph.load, optgraph.verify, net.save):
            with pytest.raises(optgraph.InputError, match=says) as error:
                function(path)  # type: ignore[operator]
            assert len(str(error.value)) < 200


@pytest.mark.parametrize("function", [optgraph.compile, optgraph.read, check.check, optgraph.verify])
def test_what_is_no_model(function: Callable[[object], object]) -> None:
    graph = optgraph.read(classifier())
    for given, says in (
        (None, 'got NoneType: pass the path of an .onnx file, such as "model.onnx"'),
        (7, "got int: pass the path"),
        ([], "got list: pass the path"),
        ("", "got an empty text"),
        (torch.nn.Conv2d(3, 4, 1), "example_inputs=x"),
        (graph, r"got Graph: optgraph.onnx.write.to_onnx\(graph\) is one"),
        (optgraph.compile(graph_model := classifier(), "torch"), r"got Net: it is compiled already: call it, net\(x\)"),
    ):
        with pytest.raises(optgraph.InputError, match=says):
            function(given)
    if function is optgraph.verify:
        with pytest.raises(optgraph.InputError, match=r'compares with an ONNX file: onnx.save\(model, "model.onnx"\)'):
            function(graph_model)


def test_what_is_compiled_already(tmp_path: Path) -> None:
    """Whatever its name: by what it begins with."""
    path = saved(tmp_path)
    for name in ("net.optgraph", "net.bin", "net.onnx"):
        artifact = tmp_path / name
        optgraph.compile(path, "torch").save(artifact)
        for function in (optgraph.compile, optgraph.read, check.check):
            with pytest.raises(optgraph.ModelError, match=f"{name}: is compiled already, and this takes the .onnx"):
                function(artifact)  # type: ignore[operator]
        assert optgraph.verify(artifact, "torch").ok
        assert optgraph.load(artifact, "torch").inputs
    with pytest.raises(optgraph.InputError, match="expects the path of a file, got NoneType"):
        optgraph.load(None)  # type: ignore[arg-type]


def test_what_a_file_does_not_replace(tmp_path: Path) -> None:
    """A folder, a link to one, a pipe; a file that a link leads to is written, and the link stays."""
    net = optgraph.compile(classifier(), "torch")
    (tmp_path / "folder").mkdir()
    (tmp_path / "to_folder").symlink_to("folder")
    os.mkfifo(tmp_path / "pipe")
    for name, says in (("folder", "is a directory"), ("to_folder", "is a directory"), ("pipe", "not a regular file")):
        with pytest.raises(optgraph.InputError, match=says):
            net.save(tmp_path / name)
    assert (tmp_path / "to_folder").is_symlink() and (tmp_path / "pipe").is_fifo()
    (tmp_path / "link").symlink_to("folder/net.optgraph")
    for _ in range(2):  # of a link that leads nowhere yet, and of one that does
        net.save(tmp_path / "link")
        assert (tmp_path / "link").is_symlink()
        np.testing.assert_allclose(optgraph.load(tmp_path / "folder/net.optgraph", "torch")(image()), net(image()))
    with pytest.raises(optgraph.InputError, match="empty text"):
        net.save("")
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["net.optgraph"]


def test_a_model_that_is_a_proto_stays_as_it_was() -> None:
    model = classifier()
    before = model.SerializeToString()
    optgraph.compile(model, "torch", outputs="left", input_shape="N,3,8,8")
    assert model == onnx.load_model_from_string(before)
