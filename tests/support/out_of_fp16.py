"""Networks whose numbers leave the range of float16 on the way, and come back."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper


def _model(nodes: list[onnx.NodeProto], **weights: np.ndarray) -> onnx.ModelProto:
    x, y = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", ["N", 3, 8, 8]), ("y", None))
    )
    arrays = [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "ranges", [x], [y], arrays)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def _weight(columns: int, channels: int, size: int, gain: float = 1.0) -> np.ndarray:
    return np.random.default_rng(columns).normal(0, gain, (columns, channels, size, size))


def overflowing() -> onnx.ModelProto:
    """Two convolutions between which numbers are up to 200,000; a branch that is joined to them; and a third."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="grow"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["x", "w0"], ["p"], name="beside"),
        helper.make_node("Concat", ["b", "p"], ["q"], axis=1, name="join"),
        helper.make_node("Conv", ["q", "w2"], ["c"], name="shrink"),
        helper.make_node("Relu", ["c"], ["d"], name="relu2"),
        helper.make_node("Conv", ["d", "w3"], ["y"], name="last"),
    ]
    second = np.concatenate([_weight(8, 8, 1, 3e-4), _weight(8, 4, 1)], axis=1)
    return _model(nodes, w1=_weight(8, 3, 3, 1.2e4), w0=_weight(4, 3, 3), w2=second, w3=_weight(5, 8, 3))


def underflowing() -> onnx.ModelProto:
    """A spectrogram: a filter, its square, which is about 1e-6, and the logarithm of that."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="filter"),
        helper.make_node("Mul", ["a", "a"], ["b"], name="square"),
        helper.make_node("Add", ["b", "least"], ["e"], name="floor"),
        helper.make_node("Log", ["e"], ["c"], name="log"),
        helper.make_node("Conv", ["c", "w3"], ["y"], name="last"),
    ]
    return _model(nodes, w1=_weight(8, 3, 3, 2e-4), least=np.array(1e-12), w3=_weight(5, 8, 3))


def overflowing_inside() -> onnx.ModelProto:
    """A depthwise convolution that gives about 200,000, and the 1×1 behind it, which are one region."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="depthwise", group=3),
        helper.make_node("Conv", ["a", "w2"], ["b"], name="pointwise"),
        helper.make_node("Relu", ["b"], ["y"], name="relu"),
    ]
    return _model(nodes, w1=_weight(3, 1, 3, 1.5e4), w2=_weight(8, 3, 1, 2e-3))
