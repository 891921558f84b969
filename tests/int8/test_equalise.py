"""Equalising: the same function, ranges that are closer; and where it would be wrong, nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from optgraph.int8.equalise import equalised
from optgraph.onnx.sessions import session

RNG = np.random.default_rng(7)
WIDE = np.array([1.0, 300.0, 1.0, 0.01, 1.0, 1.0])[:, None, None, None]


def network(act: str = "Relu", second: str = "dense", **changes: Any) -> onnx.ModelProto:
    """Conv, an activation, a Conv: the channels between are of very different ranges."""
    shape = {"dense": (4, 6, 3, 3), "depthwise": (6, 1, 3, 3), "grouped": (6, 3, 3, 3)}[second]
    groups = {"dense": 1, "depthwise": 6, "grouped": 2}[second]
    arrays = {"w": RNG.standard_normal((6, 3, 1, 1)) * WIDE, "b": RNG.standard_normal(6) * WIDE[:, 0, 0, 0]}
    arrays |= {"v": RNG.standard_normal(shape), "c": RNG.standard_normal(shape[0])}
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["p"])]
    nodes += [helper.make_node(act, ["p"], ["q"])] if act else []
    read = "q" if act else "p"
    nodes += [helper.make_node("Conv", [read, "v", changes.get("bias", "c")], ["y"], group=groups, pads=[1] * 4)]
    nodes += [helper.make_node("Sigmoid", [changes["also"]], ["z"])] if "also" in changes else []
    if changes.get("shared"):
        nodes.append(helper.make_node("Conv", ["x", "w", "b"], ["z"]))
    outputs = ["y", *changes.get("outputs", ())] + (["z"] if "also" in changes or changes.get("shared") else [])
    graph = helper.make_graph(
        nodes,
        "pair",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 5, 7])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def ranges(model: onnx.ModelProto, name: str) -> np.ndarray:
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    array = np.abs(numpy_helper.to_array(tensor))
    return array.reshape(6, -1).max(1) if name == "w" or array.shape[1] == 1 else array.max((0, 2, 3))


@pytest.mark.parametrize("act", ["Relu", "LeakyRelu", ""])
@pytest.mark.parametrize("second", ["dense", "depthwise"])
def test_the_same_function_of_closer_ranges(act: str, second: str) -> None:
    model = network(act, second)
    found = equalised(model)
    assert found is not None
    x = RNG.standard_normal((3, 3, 5, 7)).astype(np.float32)
    before, after = (
        session(each.SerializeToString(), optimize=False).run(None, {"x": x})[0] for each in (model, found)
    )
    assert np.linalg.norm(after - before) < 1e-6 * np.linalg.norm(before)
    assert ranges(model, "w").max() / ranges(model, "w").min() > 1e3
    assert ranges(found, "w") == pytest.approx(ranges(found, "v"), rel=1e-5)


REFUSED = {
    "Tanh": network("Tanh"),  # does not scale
    "grouped": network(second="grouped"),
    "read twice": network(also="q"),
    "read twice before": network(also="p"),
    "an output": network(outputs=["q"]),
    "a weight of two": network(shared=True),
}


@pytest.mark.parametrize("why", REFUSED)
def test_refusals(why: str) -> None:
    assert equalised(REFUSED[why]) is None


def test_not_where_ranges_are_close_and_a_channel_of_zeros_stays() -> None:
    model = network()
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    w = numpy_helper.to_array(tensors["w"]) / WIDE
    w /= np.abs(w).max((1, 2, 3), keepdims=True)
    w[2] = 0
    tensors["w"].CopyFrom(numpy_helper.from_array(w.astype(np.float32), "w"))
    assert equalised(model) is None
    w[0] *= 1e4
    tensors["w"].CopyFrom(numpy_helper.from_array(w.astype(np.float32), "w"))
    found = equalised(model)
    assert found is not None and not ranges(found, "w")[2] and np.isfinite(ranges(found, "v")).all()
