"""Models as files, whose weights are in one that they share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import optgraph
from optgraph.onnx import on_disk
from optgraph.onnx.on_disk import OnDisk, weight_bytes
from optgraph.onnx.sessions import InnerValues, Session, session
from optgraph.run.backends import OnnxRuntime
from tests.support.cli_models import classifier

X = np.random.default_rng(0).normal(size=(2, 3, 12, 12)).astype(np.float32)


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


@pytest.fixture(autouse=True)
def nothing_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_disk, "SMALLEST", 20)


def test_the_same_model() -> None:
    model, files = classifier(), OnDisk()
    path = files.save(copied(model))
    external = [t for t in onnx.load(path, load_external_data=False).graph.initializer if t.external_data]
    assert {tensor.name for tensor in external} == {"stem.w", "left.w", "right.w", "fc.w"}
    assert onnx.load(path).graph.initializer[0].raw_data == model.graph.initializer[0].raw_data
    wanted = session(model.SerializeToString(), optimize=False).run(None, {"x": X})[0]
    np.testing.assert_array_equal(session(path, optimize=False).run(None, {"x": X})[0], wanted)


def test_a_weight_is_written_once_for_each_type() -> None:
    model, files = classifier(), OnDisk()
    first, second = (Path(files.save(copied(model))) for _ in range(2))
    assert first != second and first.parent == second.parent
    size = (first.parent / on_disk.WEIGHTS).stat().st_size
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    third = files.save(copied(model))
    assert (first.parent / on_disk.WEIGHTS).stat().st_size > size
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(third).graph.initializer}
    for tensor in model.graph.initializer:
        np.testing.assert_array_equal(arrays[tensor.name], numpy_helper.to_array(tensor))
    assert arrays["stem.w"].dtype == np.float64
    single = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(second).graph.initializer}
    np.testing.assert_array_equal(single["stem.w"], arrays["stem.w"].astype(np.float32))


def test_the_folder_goes_with_it() -> None:
    files = OnDisk()
    folder = Path(files.save(classifier())).parent
    assert (folder / on_disk.WEIGHTS).is_file()
    del files
    assert not folder.exists()


def test_inner_values_leave_the_model_as_it_was() -> None:
    model = classifier()
    values = InnerValues(model)
    for names in (["act"], ["y", "cat"]):
        (found,) = values.run(names, {"x": X})
        assert list(found) == names and all(np.isfinite(array).all() for array in found.values())
    assert model == classifier()


def test_a_backend_whose_model_is_too_large_for_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    assert weight_bytes(classifier()) == 4 * (8 * 27 + 4 * 8 + 11 * 8 + 110 + 10)
    graph = optgraph.simplify(optgraph.read(classifier()))
    kinds, answers = [], []

    def opened(model: bytes | str, threads: int) -> Session:
        kinds.append(type(model))
        return session(model, threads)

    for limit in (2000, 1000):
        monkeypatch.setattr("optgraph.run.backends.WEIGHT_LIMIT", limit)
        answers.append(OnnxRuntime(graph, opened=opened)({"x": torch.tensor(X)}, 2)["y"])
    assert kinds == [bytes, str] and torch.equal(*answers)
