"""Exported models: valid by ONNX's checker, the same in ONNX Runtime as here in float64, written all or nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from optgraph import ops
from optgraph.base.errors import InputError, ModelError
from optgraph.ir.graph import Graph
from optgraph.ir.op import Op
from optgraph.ir.values import RELU, Act, Value
from optgraph.onnx.write import save_onnx, to_onnx
from tests.support.definitions import ACT
from tests.support.onnx_checks import IMAGE, add_opaque, exported, single, weights


def test_what_onnx_does_not_have() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Mine(Op):
        pass

    with pytest.raises(ModelError, match=r"node 'node' \(Mine\): ONNX has no such operator"):
        to_onnx(single(Mine()))
    graph = single(ops.Activation(act=RELU))
    add_opaque(graph, "Nonsense")
    with pytest.raises(ModelError, match=r"node 'ours' \(Nonsense\): ONNX opset 17 has no such operator"):
        to_onnx(graph)
    with pytest.raises(ModelError, match=r"node 'node' \(Activation\): unknown activation 'nonsense'"):
        to_onnx(single(ops.Activation(act=Act("nonsense"))))


def test_public_names_and_the_symbolic_batch() -> None:
    """Outputs that are an input, a constant, a value twice, and a name that an inner value has."""
    graph = Graph("names")
    x = graph.add_input("x", Value(("N", 4)))
    w = graph.add_constant(weights(5, 4), "w")
    inner = graph.add(ops.Gemm(), [x, w], outputs=["y"], name="same").output
    outer = graph.add(ops.Activation(act=RELU), [inner], outputs=["x/Relu"], name="y").output
    graph.outputs = {"y": outer, "again": outer, "x": x, "copy": x, "weight": w}
    model = exported(graph)
    assert [i.name for i in model.graph.input] == ["x"]
    assert [d.dim_param or d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim] == ["N", 5]
    assert [i.name for i in model.graph.initializer] == ["weight"]


def test_a_shared_constant_is_written_once_and_an_unused_one_never() -> None:
    graph = Graph()
    x = graph.add_input("x", Value(IMAGE))
    w = graph.add_constant(weights(4, 4, 1, 1), "w")
    graph.add_constant(weights(100), "unused")
    y = graph.add(ops.Conv(kernel=(1, 1)), [x, w]).output
    graph.outputs = {"y": graph.add(ops.Conv(kernel=(1, 1)), [y, w]).output}
    model = exported(graph)
    assert [i.name for i in model.graph.initializer] == ["w"]
    tensor = model.graph.initializer[0]
    assert len(tensor.raw_data) == 64
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), graph.constants["w"])


def test_half_precision_stays() -> None:
    graph = Graph()
    x = graph.add_input("x", Value(("N", 4), "float16"))
    y = graph.add(ops.Affine(act=ACT["clip"]), [x, *(graph.add_constant(weights(4).astype(np.float16)) for _ in "ab")])
    graph.outputs = {"y": y.output}
    model = to_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    kinds = {t.data_type for t in model.graph.initializer} | {model.graph.output[0].type.tensor_type.elem_type}
    assert kinds == {onnx.TensorProto.FLOAT16}


def test_onnx_runtime_1_22_can_read_it() -> None:
    model = to_onnx(single(ops.Activation(act=RELU)))
    assert model.opset_import[0].version == 17
    assert model.ir_version <= 10


# ---- the file


def test_save(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"before")
    graph = single(ops.Activation(act=RELU))
    save_onnx(graph, path)
    assert onnx.load(str(path)) == to_onnx(graph)
    save_onnx(graph, str(tmp_path / "other.onnx"))
    assert sorted(os.listdir(tmp_path)) == ["model.onnx", "other.onnx"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("failing", ["os.replace", "pathlib.Path.open"])
def test_a_failed_save_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"before")

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(failing, full)
        with pytest.raises(InputError, match=r"model\.onnx: cannot be written: No space left on device"):
            save_onnx(single(ops.Activation(act=RELU)), path)
    assert os.listdir(tmp_path) == ["model.onnx"]
    assert path.read_bytes() == b"before"


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        assert len(os.listdir(tmp_path)) == 1  # the temporary file, complete
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_onnx(single(ops.Activation(act=RELU)), tmp_path / "model.onnx")
    assert os.listdir(tmp_path) == []


def test_paths_that_cannot_be_written(tmp_path: Path) -> None:
    graph = single(ops.Activation(act=RELU))
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for path in ("missing/model.onnx", "file/model.onnx", "folder"):
        with pytest.raises(InputError, match=r"cannot be written|is a directory"):
            save_onnx(graph, tmp_path / path)
    with pytest.raises(InputError, match="not a file name"):
        save_onnx(graph, "")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_over_two_gigabytes(tmp_path: Path) -> None:
    graph = single(ops.Activation(act=RELU), shape=("N", 4))
    huge = np.broadcast_to(np.float32(1), (150_000_000, 4))
    w = graph.add_constant(huge, "w")
    graph.outputs = {"y": graph.add(ops.Gemm(), [graph.outputs["y0"], w]).output}
    with pytest.raises(ModelError, match=r"2\.4 GB of weights.*save a \.optgraph artifact"):
        save_onnx(graph, tmp_path / "model.onnx")
    assert os.listdir(tmp_path) == []
