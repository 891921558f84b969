"""Inception V3 under Polygraphy: the kernels in the interpreter beside ONNX Runtime, and an answer that is wrong."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper
from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
from polygraphy.comparator import Comparator

from optgraph.adapters.polygraphy import NetFromOnnx, OptgraphRunner
from optgraph.onnx.calibrate import calibrate
from optgraph.onnx.load import load_model
from tests.support.paths import GRAPHS


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inception") / "inception_v3.onnx"
    onnx.save(calibrate(load_model(GRAPHS / "dynamo_inception_v3.onnx"), 0, 299, False), path)
    return path


def agree(ours: onnx.ModelProto | str, theirs: Path) -> bool:
    runners = [OptgraphRunner(NetFromOnnx(ours, "interpret")), OnnxrtRunner(SessionFromOnnx(str(theirs)))]
    return bool(Comparator.compare_accuracy(Comparator.run(runners)))


def test_the_kernels_agree_with_onnx_runtime(inception: Path) -> None:
    assert agree(str(inception), inception)


def test_one_weight_that_is_off_by_a_hundredth_is_seen(inception: Path) -> None:
    model = onnx.load(inception)
    bias = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [1000])
    moved = numpy_helper.to_array(bias).copy()
    moved[7] += 0.01
    bias.CopyFrom(numpy_helper.from_array(moved, bias.name))
    assert not agree(model, inception)
