"""A model repository for Triton Inference Server: what its files say, and that none is overwritten."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from optgraph.adapters.triton_config import written_for
from optgraph.adapters.triton_repository import Exported, check_place, export
from optgraph.api import compiling
from optgraph.api.net import Net
from optgraph.base.errors import InputError
from tests.support import served_models
from tests.support.cli_models import classifier

NAMES = [f"class {i}" for i in range(10)]


def saving(model: onnx.ModelProto, any_size: bool = False, **given: Any) -> Callable[[Path], None]:
    return lambda path: compiling.compile(model, "torch", **given).save(path, any_size=any_size)


def exported(folder: Path, model: onnx.ModelProto | None = None, name: str = "m", **given: Any) -> Exported:
    options = {key: given.pop(key) for key in ("backend", "max_batch", "delay_us") if key in given}
    saved = saving(model or classifier(), **given)
    return export(saved, check_place(folder / "repo", name), **{"backend": "auto"} | options)


def config(folder: Path, name: str = "m") -> str:
    return (folder / "repo" / name / "config.pbtxt").read_text()


def dims(text: str) -> dict[str, str]:
    """The dimensions of each input and output, as config.pbtxt has them."""
    return dict(re.findall(r'put \[ \{ name: "(\w+)" data_type: \w+ dims: \[ (.*?) \]', text))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_model_of_its_own_name(tmp_path: Path) -> None:
    found = exported(tmp_path, labels=NAMES, max_batch=16, delay_us=500)
    assert (found.folder, found.version, found.why) == (tmp_path / "repo" / "m", 1, "")
    names = ["m/1/model.optgraph", "m/1/model.py", "m/config.pbtxt", "m/labels.txt"]
    assert list(files(tmp_path / "repo")) == names, "and nothing that was in the making"
    text = config(tmp_path)
    assert 'backend: "python"\nmax_batch_size: 16\n' in text and dims(text) == {"x": "3, 12, 12", "y": "10"}
    assert 'name: "y" data_type: TYPE_FP32 dims: [ 10 ] label_filename: "labels.txt"' in text
    assert "dynamic_batching { max_queue_delay_microseconds: 500 }" in text
    assert re.findall(r"batch_size: (\d+)\n", text) == ["16", "1", "16"], "the most, and what is tried before"
    assert (tmp_path / "repo" / "m" / "labels.txt").read_text().splitlines() == NAMES
    assert compiling.load(tmp_path / "repo" / "m" / "1" / "model.optgraph", "torch").labels == tuple(NAMES)


@pytest.mark.parametrize(
    ("backend", "kind"), [("auto", "AUTO"), ("triton", "GPU"), ("onnxruntime", "CPU"), ("torch", "CPU")]
)
def test_instances_are_on_what_the_backend_runs_on(tmp_path: Path, backend: str, kind: str) -> None:
    exported(tmp_path, backend=backend)
    text = config(tmp_path)
    assert f"kind: KIND_{kind} count: 1" in text
    assert ('name: "8"' in text) == (kind != "CPU"), "a call of a batch size is a first one on a GPU only"
    assert f'key: "optgraph_backend" value: {{ string_value: "{backend}" }}' in text


def test_machine_code_in_the_file_is_for_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = compiling.load

    def with_cubins(*given: Any) -> Net:
        loaded = load(*given)
        loaded.cubins = ("some",)
        return loaded

    monkeypatch.setattr(compiling, "load", with_cubins)
    assert exported(tmp_path).serving.kind == "KIND_GPU"
    assert exported(tmp_path, name="cpu", backend="onnxruntime").serving.kind == "KIND_CPU"


def test_types_and_shapes_of_every_kind(tmp_path: Path) -> None:
    exported(tmp_path, served_models.kinds())
    text = config(tmp_path)
    for name, kind in {"positive": "BOOL", "half": "BF16", "whole": "INT64"}.items():
        assert f'name: "{name}" data_type: TYPE_{kind} dims: [ 3, 4, 4 ]' in text
    assert 'name: "y" data_type: TYPE_FP32 dims: [ 1 ] reshape: { shape: [ ] }' in text, "a number an image"
    exported(tmp_path, served_models.chosen(), "chosen")
    assert 'name: "c" data_type: TYPE_BOOL dims: [ 4 ]' in config(tmp_path, "chosen")


def test_several_sizes_are_open_where_they_differ(tmp_path: Path) -> None:
    model = classifier(("n", 3, "h", "w"))
    exported(tmp_path, model, sizes=[(12, 12), (12, 16)])
    assert dims(config(tmp_path)) == {"x": "3, 12, -1", "y": "10"}
    assert config(tmp_path).count("model_warmup") == 4 and 'name: "8 of 12x16"' in config(tmp_path)
    exported(tmp_path, model, "one", sizes=[(12, 12)])
    assert dims(config(tmp_path, "one")) == {"x": "3, 12, 12", "y": "10"}
    exported(tmp_path, model, "any", sizes=[(12, 12)], any_size=True)
    assert dims(config(tmp_path, "any")) == {"x": "3, -1, -1", "y": "-1"}


def test_answers_that_are_not_finite_are_joined(tmp_path: Path) -> None:
    huge = classifier(weights={"fc.w": np.full((11, 10), 3e38)})
    del huge.graph.node[-1]
    huge.graph.output[0].name = "logits"
    assert exported(tmp_path, huge).why == ""


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (classifier((4, 3, 12, 12)), "the first dimension of input 'x' is 4, not an open batch"),
        (served_models.with_shared_input(), "the first dimension of input 'a' is 4, not an open batch"),
        (served_models.coupled(), "what output 'y' says of an image depends on the others of its batch"),
    ],
)
def test_what_cannot_be_joined_is_not(tmp_path: Path, model: onnx.ModelProto, why: str) -> None:
    found = exported(tmp_path, model)
    assert found.why == why and found.serving.max_batch == 0
    text = config(tmp_path)
    assert "dynamic_batching" not in text and "max_batch_size: 0" in text
    for asked in ({"max_batch": 4}, {"delay_us": 100}):
        with pytest.raises(InputError, match=re.escape(why)):
            exported(tmp_path, model, "other", **asked)
    assert not (tmp_path / "repo" / "other").exists()


def test_a_fixed_batch_is_all_of_a_request(tmp_path: Path) -> None:
    exported(tmp_path, classifier((4, 3, 12, 12)))
    assert dims(config(tmp_path)) == {"x": "4, 3, 12, 12", "y": "4, 10"}


def test_an_open_batch_that_is_not_to_be_joined(tmp_path: Path) -> None:
    assert exported(tmp_path, max_batch=0).why == ""
    assert dims(config(tmp_path)) == {"x": "-1, 3, 12, 12", "y": "-1, 10"}
    exported(tmp_path, name="one", max_batch=1)
    assert "max_batch_size: 1\n" in config(tmp_path, "one") and "dynamic_batching" not in config(tmp_path, "one")
    exported(tmp_path, name="two", max_batch=2)
    assert "dynamic_batching { max_queue_delay_microseconds: 0 }" in config(tmp_path, "two")
    with pytest.raises(InputError, match="--delay-us 9: requests are not joined: leave it out"):
        exported(tmp_path, name="none", max_batch=1, delay_us=9)


@pytest.mark.parametrize(
    ("most", "says"), [(1 << 24, "2415919104 pixels.* use a smaller batch"), (1 << 22, r"over the budget of \d+$")]
)
def test_more_images_than_the_kernels_can_run(tmp_path: Path, most: int, says: str) -> None:
    with pytest.raises(InputError, match=f"--max-batch {most}: batch {most}.*{says}"):
        exported(tmp_path, max_batch=most)
    assert exported(tmp_path, max_batch=1 << 24, backend="onnxruntime").serving.max_batch == 1 << 24


def test_a_number_by_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'s' has no dimensions, and the server has no such tensors"):
        exported(tmp_path, served_models.with_scalar())


def test_a_new_version_keeps_what_is_there(tmp_path: Path) -> None:
    exported(tmp_path, delay_us=100)
    edited = config(tmp_path).replace("count: 1", "count: 4")
    (tmp_path / "repo" / "m" / "config.pbtxt").write_text(edited)
    (tmp_path / "repo" / "m" / "7").mkdir()
    before = files(tmp_path)
    assert exported(tmp_path, delay_us=100).version == 8
    after = files(tmp_path)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"repo/m/8/model.optgraph", "repo/m/8/model.py"}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"delay_us": 200}, "delay-us is 100 there, 200 here"),
        ({"delay_us": 100, "max_batch": 4}, "max-batch is 8 there, 4 here"),
        ({"delay_us": 100, "backend": "torch"}, "backend is auto there, torch here"),
        ({"delay_us": 100, "labels": NAMES}, "labels are others"),
        ({"delay_us": 100, "model": classifier(("n", 3, 9, 9))}, "inputs are others"),
        ({"delay_us": 100, "outputs": ["logits"]}, "outputs are others"),
    ],
)
def test_a_version_that_the_configuration_does_not_fit(tmp_path: Path, given: dict[str, Any], says: str) -> None:
    exported(tmp_path, delay_us=100)
    before = files(tmp_path)
    with pytest.raises(InputError, match=f"one configuration is for all versions, and {says}: give it another --name"):
        exported(tmp_path, **given)
    assert files(tmp_path) == before


@pytest.mark.parametrize("text", [None, 'name: "m"\n', "# optgraph: {}\n", "# optgraph: [\n", b"\xff\xfe"])
def test_a_model_of_someone_else_s_is_left_alone(tmp_path: Path, text: str | bytes | None) -> None:
    folder = tmp_path / "repo" / "m"
    folder.mkdir(parents=True)
    if text is not None:
        (folder / "config.pbtxt").write_bytes(text.encode() if isinstance(text, str) else text)
    before = files(tmp_path)
    with pytest.raises(InputError, match="is there, and was not written by optgraph export-triton"):
        check_place(tmp_path / "repo", "m")
    assert files(tmp_path) == before


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "a\nb", 'a b"c', "a?b"])
def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="no name of a model"):
        check_place(tmp_path, name)


def test_places_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is not a directory: name one"):
        check_place(tmp_path / "file", "m")
    with pytest.raises(InputError, match="make it first"):
        check_place(tmp_path / "none" / "repo", "m")


def test_what_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="m: cannot be written: No space left on device"):
        export(fail, check_place(tmp_path / "repo", "m"), "auto")
    assert files(tmp_path) == {}


@pytest.mark.parametrize("aside", [True, False])
def test_a_model_in_the_making_is_none_of_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aside: bool
) -> None:
    """Which a server may be looking at; unless there is no other place, as where the repository is a mounted disk."""
    seen: list[list[str]] = []

    def save(path: Path) -> None:
        seen.append([each.name for each in (tmp_path / "repo").iterdir()])
        saving(classifier())(path)

    monkeypatch.setattr(os, "access", lambda *_: aside)
    assert export(save, check_place(tmp_path / "repo", "m"), "auto").version == 1
    assert [len(names) for names in seen] == [0 if aside else 1]
    assert [each.name for each in (tmp_path / "repo").iterdir()] == ["m"]
    assert [each.name for each in tmp_path.iterdir()] == ["repo"]


def test_what_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    """Another export of the same name, while this one compiled."""
    folder = check_place(tmp_path / "repo", "m")

    def slow(path: Path) -> None:
        saving(classifier())(path)
        assert exported(tmp_path).version == 1

    assert export(slow, folder, "auto").version == 2


def test_two_exports_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another that puts its model, then its version, in the place that this one has just found free."""
    rename, made = os.rename, list[int]()

    def late(source: Path, place: Path) -> None:
        if not made or (source.name == "1" and len(made) == 1):
            made.append(0)
            made[-1] = exported(tmp_path).version
        rename(source, place)

    monkeypatch.setattr(os, "rename", late)
    assert exported(tmp_path).version == 3 and made == [1, 2]
    assert sorted(each.name for each in (tmp_path / "repo" / "m").iterdir()) == ["1", "2", "3", "config.pbtxt"]


def test_the_comparison_is_with_the_second_line(tmp_path: Path) -> None:
    found = exported(tmp_path)
    assert written_for(config(tmp_path)) == found.serving
