"""Small graphs that people report of tools of this trade (`tests/cases`): each right by every way through, or refused
in one line with a remedy.

The right answer is ONNX Runtime's with nothing optimised; where it has none at a type, that of the same model in
float32, for its numbers are exact in both but for rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import optgraph
from optgraph.api.check import check
from optgraph.base.errors import OptgraphError
from optgraph.onnx.read import read
from optgraph.onnx.sessions import session
from optgraph.onnx.write import to_onnx
from optgraph.passes import pipeline
from optgraph.plan.lowering import lower

CASES = sorted((Path(__file__).parents[1] / "cases").glob("*.onnx"))
NAMES = [path.stem for path in CASES]

# What must be refused: the words that say why, and those of the remedy.
REFUSED = {"bn_outputs_and_training.opset7_spatial0": ("spatial", "export")}


BOUNDS = {"float16": 5e-3, "bfloat16": 3e-2, "float32": 1e-5, "float64": 1e-12}
WAYS = ("torch", "onnxruntime", "interpret", "artifact", "optimize")


def feeds_of(model: onnx.ModelProto, batch: int) -> dict[str, np.ndarray]:
    """Seeded normal numbers; every open dimension is the batch."""
    rng = np.random.default_rng(0)
    constant = {tensor.name for tensor in model.graph.initializer}
    feeds = {}
    for info in model.graph.input:
        if info.name not in constant:
            tensor = info.type.tensor_type
            shape = [batch if d.dim_param else d.dim_value for d in tensor.shape.dim]
            feeds[info.name] = rng.normal(size=shape).astype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return feeds


def expected(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """ONNX Runtime's answers, in float64 or bfloat16 of the same model in float32."""
    names = [output.name for output in model.graph.output]
    wide = _in_float32(model)
    arrays = {n: a.astype(np.float32) if wide is not model and a.dtype.kind in "fV" else a for n, a in feeds.items()}
    results = session(wide.SerializeToString(), optimize=False).run(names, arrays)
    return dict(zip(names, results, strict=True))


def _in_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    others = {TensorProto.DOUBLE, TensorProto.BFLOAT16}
    if not any(i.type.tensor_type.elem_type in others for i in model.graph.input):
        return model
    wide = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor in wide.graph.initializer:
        if tensor.data_type in others:
            array = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for info in (*wide.graph.input, *wide.graph.output, *wide.graph.value_info):
        if info.type.tensor_type.elem_type in others:
            info.type.tensor_type.elem_type = TensorProto.FLOAT
    return wide


def answers(way: str, path: Path, feeds: Mapping[str, np.ndarray], folder: Path) -> dict[str, np.ndarray]:
    """What the model answers when it is run `way`."""
    names = [output.name for output in onnx.load(path).graph.output]
    if way == "optimize":
        model = to_onnx(optgraph.simplify(optgraph.read(path)))
        onnx.checker.check_model(model, full_check=True)
        return expected(model, feeds)
    if way == "artifact":
        saved = folder / "net.optgraph"
        optgraph.compile(path, backend="torch").save(saved)
        net = optgraph.load(saved, backend="torch")
    else:
        net = optgraph.compile(path, backend=way)
    result = net(dict(feeds))
    results = result if isinstance(result, dict) else {names[0]: result}
    return {name: results[name] for name in names}


def _float64(array: np.ndarray) -> np.ndarray:
    tensor = torch.as_tensor(np.asarray(array, np.float32) if array.dtype.kind == "V" else array)
    return tensor.double().numpy()


def assert_alike(results: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray], bound: float) -> None:
    assert results.keys() == wanted.keys()
    for name, want in wanted.items():
        out, ref = _float64(results[name]), _float64(want)
        assert out.shape == ref.shape
        finite = np.isfinite(ref)
        np.testing.assert_array_equal(out[~finite], ref[~finite])
        assert np.linalg.norm(out[finite] - ref[finite]) <= bound * max(np.linalg.norm(ref[finite]), 1e-30), name


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("path", CASES, ids=NAMES)
def test_case(path: Path, way: str, tmp_path: Path) -> None:
    if path.stem in REFUSED:
        reason, remedy = REFUSED[path.stem]
        with pytest.raises(OptgraphError, match=reason) as raised:
            answers(way, path, {}, tmp_path)
        assert remedy in str(raised.value) and "\n" not in str(raised.value)
        found = check(path)
        assert not found.ok and reason in found.unsupported[0].reason and remedy in found.unsupported[0].remedy
        return
    assert check(path).ok
    model = onnx.load(path)
    open_batch = any(d.dim_param for i in model.graph.input for d in i.type.tensor_type.shape.dim)
    for batch in (1, 3) if open_batch else (1,):
        feeds = feeds_of(model, batch)
        wanted = expected(model, feeds)
        types = {str(a.dtype) for a in feeds.values() if str(a.dtype) in BOUNDS}
        coarse = "float32" if way == "interpret" and "float64" in types else max(types, key=BOUNDS.__getitem__)
        assert_alike(answers(way, path, feeds, tmp_path), wanted, max(BOUNDS[coarse], 1e-5))


MOVE = {
    "Concat",
    "ConvTranspose",
    "Expand",
    "Gather",
    "Pad",
    "Reshape",
    "Resize",
    "Slice",
    "Split",
    "Tile",
    "Transpose",
}


def test_what_moves_elements_needs_no_fallback() -> None:
    kinds = set()
    for path in CASES:
        if path.stem not in REFUSED:
            graph = read(path)
            pipeline.apply(graph, pipeline.SIMPLIFY + pipeline.FUSE)
            kinds |= {node.op.kind for node in graph.nodes()}
            assert not MOVE & {fallback.op for fallback in lower(graph).fallbacks}, path.stem
    assert len(MOVE & kinds) > 5
