"""What runs inside Triton Inference Server: requests joined and split, and errors that are of one request alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optgraph.adapters.triton_server import BACKEND_KEY, TritonPythonModel, answers, backend_for
from optgraph.api import compiling
from optgraph.api.net import Net
from optgraph.base.errors import InputError
from tests.support.cli_models import classifier, expected, saved
from tests.support.served_models import Request, python_backend


class Counted:
    """Twice x, and how many images each call had; an image of -1 cannot be had, one of -2 is a fault."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, feeds: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        x = feeds["x"]
        self.calls.append(len(x))
        if (x == -1).any():
            raise InputError("an image of -1")
        if (x == -2).any():
            raise RuntimeError("an image of -2")
        return {"y": 2 * x, "rows": torch.arange(len(x))}


def images(count: int, value: float = 1.0, size: int = 2) -> dict[str, torch.Tensor]:
    return {"x": torch.full((count, 3, size), value)}


def test_requests_of_one_shape_are_one_call() -> None:
    call = Counted()
    found = answers(call, [images(1, 1.0), images(3, 2.0), images(2, 3.0)], True)
    assert call.calls == [6]
    assert [len(each["y"]) for each in found] == [1, 3, 2]
    assert [each["y"].unique().tolist() for each in found] == [[2.0], [4.0], [6.0]]
    assert [each["rows"].tolist() for each in found] == [[0], [1, 2, 3], [4, 5]]


def test_other_shapes_and_types_are_calls_of_their_own() -> None:
    call = Counted()
    wide, whole = images(1, size=5), {"x": torch.ones((2, 3, 2), dtype=torch.int64)}
    found = answers(call, [images(1, 1.0), wide, images(2, 2.0), whole], True)
    assert sorted(call.calls) == [1, 2, 3]
    assert [tuple(each["y"].shape) for each in found] == [(1, 3, 2), (1, 3, 5), (2, 3, 2), (2, 3, 2)]


def test_what_is_not_to_be_joined_is_not() -> None:
    call = Counted()
    answers(call, [images(1), images(1)], False)
    assert call.calls == [1, 1]


def test_an_error_is_of_its_request_alone() -> None:
    call = Counted()
    first, bad, fault, last = answers(call, [images(1), images(1, -1.0), images(1, -2.0), images(2, 4.0)], True)
    assert isinstance(bad, InputError) and isinstance(fault, RuntimeError)
    assert first["y"].unique().tolist() == [2.0] and last["y"].shape == (2, 3, 2)
    assert call.calls == [5, 1, 1, 1, 2]


def test_inputs_of_different_batches_are_not_joined_with_others() -> None:
    seen: list[dict[str, tuple[int, ...]]] = []

    def call(feeds: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.append({name: tuple(x.shape) for name, x in feeds.items()})
        return {"y": feeds["x"]}

    odd = {"x": torch.zeros(2, 3), "m": torch.zeros(1, 3)}
    even = {"x": torch.zeros(1, 3), "m": torch.zeros(1, 3)}
    answers(call, [odd, even, even], True)
    assert seen == [{"x": (2, 3), "m": (1, 3)}, {"x": (2, 3), "m": (2, 3)}]


def test_the_server_s_memory_is_not_what_a_network_answers_with() -> None:
    """It takes its tensors back, and a network may give an input as it is."""
    feeds = images(1)
    (found,) = answers(lambda given: {"y": given["x"]}, [feeds], True)
    feeds["x"].zero_()
    assert found["y"].eq(1).all()


@pytest.mark.parametrize("joined", [True, False])
def test_answers_are_contiguous(joined: bool) -> None:
    """The server takes no others by DLPack, and its own order of dimensions is the network's to choose."""
    for answer in answers(lambda given: {"y": given["x"].transpose(1, 2)}, [images(2), images(1)], joined):
        assert answer["y"].is_contiguous() and answer["y"].shape[1:] == (2, 3)


def test_the_backend_is_the_one_named_or_that_of_the_device() -> None:
    assert backend_for({}, "GPU") == "triton" and backend_for({}, "CPU") == "onnxruntime"
    named = {"parameters": {BACKEND_KEY: {"string_value": "torch"}}}
    assert backend_for(named, "GPU") == "torch"


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A classifier as the server makes an instance of it, of two sizes; its module of utilities is `pb`."""
    backend = python_backend()
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", backend)
    (tmp_path / "1").mkdir()
    model = saved(tmp_path, classifier(("n", 3, "h", "w")))
    compiling.compile(model, "torch", sizes=[(12, 12), (12, 16)]).save(tmp_path / "1" / "model.optgraph")
    config = {"max_batch_size": 8, "parameters": {BACKEND_KEY: {"string_value": "torch"}}}
    args = {"model_repository": str(tmp_path), "model_version": "1", "model_name": "m"}
    args |= {"model_config": json.dumps(config), "model_instance_kind": "CPU", "model_instance_device_id": "0"}
    instance = TritonPythonModel()
    instance.initialize(args)
    yield instance, backend, model
    instance.finalize()


def test_an_instance_answers_each_request_with_its_own(served: Any) -> None:
    instance, pb, model = served
    assert "optgraph: m: <Net" in pb.Logger.lines[0] and "on torch> loaded in" in pb.Logger.lines[0]
    rng = np.random.default_rng(0)
    shapes = [(1, 3, 12, 12), (2, 3, 12, 16), (3, 3, 12, 12), (1, 3, 12, 20), (1, 3, 12, 16)]
    given = [rng.random(shape, np.float32) for shape in shapes]
    responses = instance.execute([Request(x=x) for x in given])
    for x, response in zip(given, responses, strict=True):
        if x.shape[3] == 20:
            assert response.error.code == pb.TritonError.INVALID_ARG
            assert "12x20" in str(response.error)
        else:
            assert response.error is None
            np.testing.assert_allclose(response.outputs["y"].numpy(), expected(model, x), rtol=1e-4, atol=1e-6)


def test_a_fault_is_told_and_logged(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    instance, pb, _ = served

    def fail(self: Net, x: object) -> None:
        raise RuntimeError("no\nmemory")

    monkeypatch.setattr(Net, "__call__", fail)
    (response,) = instance.execute([Request(x=np.zeros((1, 3, 12, 12), np.float32))])
    assert response.error.code == pb.TritonError.INTERNAL and str(response.error) == "RuntimeError: no memory"
    assert "Traceback" in pb.Logger.lines[-1]
