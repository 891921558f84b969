"""Models that leave height and width open, and what ONNX Runtime answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from optgraph.onnx.sessions import session


def made(nodes: Sequence[onnx.NodeProto], inputs: Mapping[str, Sequence[int | str]], **weights) -> onnx.ModelProto:
    """A model of these nodes, whose output is `y`."""
    graph = helper.make_graph(
        nodes,
        "open",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def detector(shape: Sequence[int | str] = ("n", 3, "h", "w")) -> onnx.ModelProto:
    """A map at half the size: pads as the size asks for (SAME_UPPER), a coarser map enlarged and cut to it, a pool.

    At sizes that are no multiple of 2 its pads differ from those of others; what is cut off is shape arithmetic at
    any.
    """
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", auto_pad="SAME_UPPER", strides=[2, 2]),
        helper.make_node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["bn"], "bn"),
        helper.make_node("Relu", ["bn"], ["r"], "relu"),
        helper.make_node("MaxPool", ["r"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        helper.make_node("Resize", ["p", "", "scales"], ["larger"], "up", mode="nearest", nearest_mode="floor",
                         coordinate_transformation_mode="asymmetric"),
        helper.make_node("Shape", ["r"], ["ends"], "shape", start=2),
        helper.make_node("Slice", ["larger", "starts", "ends", "axes"], ["up"], "cut"),
        helper.make_node("Add", ["up", "r"], ["sum"], "add"),
        helper.make_node("GlobalAveragePool", ["sum"], ["g"], "global"),
        helper.make_node("Mul", ["sum", "g"], ["m"], "mul"),
        helper.make_node("Conv", ["m", "head"], ["y"], "head"),
    ]  # fmt: skip
    normal = rng.standard_normal
    weights = {
        "w": normal((6, 3, 3, 3)) / 5,
        "gamma": 1 + normal(6) / 5,
        "beta": normal(6),
        "mean": normal(6),
        "var": 1 + abs(normal(6)),
        "head": normal((2, 6, 1, 1)),
    }
    arrays = {name: array.astype(np.float32) for name, array in weights.items()}
    scales, starts, axes = np.array([1, 1, 2, 2], np.float32), np.array([0, 0]), np.array([2, 3])
    return made(nodes, {"x": shape}, **arrays, scales=scales, starts=starts, axes=axes)


def image(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def answer(model: onnx.ModelProto, **feeds: np.ndarray) -> np.ndarray:
    """What ONNX Runtime gives, with nothing optimised."""
    return session(model.SerializeToString(), optimize=False).run(None, feeds)[0]
