"""Import: what each ONNX operator becomes, against ONNX Runtime on the same model; and models that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from onnx import TensorProto, helper

from optgraph.base.errors import InputError, ModelError
from optgraph.ir.graph import Source
from optgraph.onnx.read import read
from optgraph.run import reference
from tests.support.onnx_checks import INITS, agree, imported, ints, model, weights

CASES = {
    "constant": [
        helper.make_node("Constant", [], ["k"], value_floats=[2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]),
        ("Mul", "x k", "y", {}),
    ],
    "view_with_batch": [
        ("Shape", "x", "dims", {}),
        ("Gather", "dims zero_i", "n", {}),
        ("Unsqueeze", "n ax0", "u", {}),
        ("Concat", "u minus", "t", {"axis": 0}),
        ("Reshape", "x t", "y", {}),
    ],
    "view_divided": [
        ("Shape", "x", "dims", {}),
        ("Slice", "dims one_v two_v", "channels", {}),
        ("Div", "channels two_v", "h", {}),
        ("Slice", "dims zero_v one_v", "n", {}),
        ("Concat", "n two_v h minus", "t", {"axis": 0}),
        ("Reshape", "x t", "y", {}),
    ],
}


@pytest.mark.parametrize("name", CASES)
def test_constants_and_shape_arithmetic(name: str) -> None:
    imported(CASES[name])


def test_shape_arithmetic_leaves_only_the_reshape() -> None:
    inits = {k: INITS[k] for k in ("zero_i", "ax0", "minus")}
    assert agree(model(CASES["view_with_batch"], inits)) == {"Reshape": 1}


def test_old_opsets_keep_operands_in_attributes() -> None:
    nodes = [
        ("Clip", "x", "c", {"min": -0.5, "max": 0.5}),
        ("Pad", "c", "p", {"pads": [0, 0, 1, 1, 0, 0, 0, 0], "value": 2.0}),
        ("Slice", "p", "s", {"starts": [1], "ends": [100], "axes": [3]}),
        ("Unsqueeze", "s", "u", {"axes": [0]}),
        ("Squeeze", "u", "q", {"axes": [0]}),
        ("Split", "q", "a b", {"axis": 1, "split": [1, 3]}),
        ("Concat", "b a", "y", {"axis": 1}),
    ]
    agree(model(nodes, opset=9))


def test_weights_shared_through_identity_stay_one_constant() -> None:
    nodes = [
        ("Identity", "w", "w2", {}),
        ("Conv", "x w", "p", {}),
        ("Conv", "x w2", "q", {}),
        ("Add", "p q", "y", {}),
    ]
    graph = read(model(nodes, {"w": INITS["w"]}))
    assert list(graph.constants) == ["w"] and len(graph.users("w")) == 2


def test_batch_is_symbolic_and_height_can_be_fixed() -> None:
    proto = model([("Relu", "x", "y", {})], shape=("batch", 3, "h", "w"))
    with pytest.raises(ModelError, match=r"--input-shape N,3,H,W, with numbers for H and W, or with --sizes"):
        read(proto)
    assert read(proto, input_shape=("N", 3, 5, 6)).shape("x") == ("N", 3, 5, 6)
    assert read(proto, input_shape={"x": (2, 3, 5, 6)}).shape("x") == (2, 3, 5, 6)
    with pytest.raises(InputError, match="4 dimensions"):
        read(proto, input_shape=(3, 5, 6))
    with pytest.raises(InputError, match="no input 'z'"):
        read(proto, input_shape={"z": (1, 3, 5, 6)})


def test_functions_are_inlined() -> None:
    function = helper.make_function(
        "local", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    node = helper.make_node("Twice", ["x"], ["y"], domain="local")
    proto = model([node], functions=[function])
    proto.opset_import.append(helper.make_opsetid("local", 1))
    assert agree(proto) == {"Binary": 1}


def test_every_value_remembers_its_onnx_name() -> None:
    graph = read(model([("Relu", "x", "r", {}), ("Conv", "r w", "y", {})], {"w": INITS["w"]}))
    assert graph.sources == {"r": Source("r"), "y": Source("y")}
    assert graph.nodes()[1].origin == ("y",)


REFUSED = {
    "unknown operator": ([("Wobble", "x", "y", {})], {}, r"node 'y' \(Wobble\).*knows no operator Wobble"),
    "undefined value": ([("Add", "x ghost", "y", {})], {}, r"node 'y' \(Add\): reads 'ghost'"),
    "value defined twice": ([("Relu", "x", "y", {}), ("Relu", "x", "y", {})], {}, "'y' is defined twice"),
    "window too large": (
        [("MaxPool", "x", "y", {"kernel_shape": [20, 20]})],
        {},
        r"node 'y' .*a window of 20 .*does not fit",
    ),
    "channels disagree": ([("Conv", "x w", "y", {})], {"w": weights(5, 3, 3, 3)}, "4 channels, weight expects 3"),
    "bad reshape": ([("Reshape", "x t", "y", {})], {"t": ints(0, 5, -1)}, "cannot reshape"),
    "training batchnorm": (
        [("BatchNormalization", "x s s s s", "y", {"training_mode": 1})],
        {"s": INITS["s"]},
        "export the model for inference",
    ),
    "an input that is not there": (
        [helper.make_node("Atan", [""], ["y"], name="y")],
        {},
        r"node 'y' \(Atan\): .*input 0 is marked single but has an empty string",
    ),
    "broadcast": ([("Add", "x w", "y", {})], {"w": weights(3)}, "do not broadcast"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_models_are_refused_by_node(name: str) -> None:
    nodes, inits, message = REFUSED[name]
    with pytest.raises(ModelError, match=message) as caught:
        read(model(nodes, inits))
    assert "\n" not in str(caught.value)


def test_control_flow_is_refused() -> None:
    then = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["t"])], "t", [], [helper.make_tensor_value_info("t", 1, None)]
    )
    node = helper.make_node("If", ["c"], ["y"], name="branch", then_branch=then, else_branch=then)
    condition = [("ReduceMax", "x", "m", {"keepdims": 0}), ("Greater", "m zero", "c", {})]
    with pytest.raises(ModelError, match=r"node 'branch' \(If\): control flow is not supported.*trace the model"):
        read(model([*condition, node], {"zero": INITS["zero"]}))


def test_files_that_are_no_models(tmp_path: Path) -> None:
    good = model([("Conv", "x w", "y", {})], {"w": INITS["w"]}).SerializeToString()
    for name, data in {"text": b"hello, this is not a model", "truncated": good[:-40], "empty": b""}.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(data)
        with pytest.raises(ModelError, match=name):
            read(path)
    with pytest.raises(ModelError, match="no such file"):
        read(tmp_path / "missing.onnx")
    with pytest.raises(ModelError, match="not a file"):
        read(tmp_path)


def test_stripped_weights_need_calibration_or_consent() -> None:
    proto = model([("Conv", "x w", "y", {})], {"w": INITS["w"]})
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="stripped")
    with pytest.raises(ModelError, match=r"'w' was stripped.*calibrate"):
        read(proto)
    assert read(proto, allow_stripped=True).constants["w"].shape == (5, 4, 3, 2)


def test_constants_are_read_only() -> None:
    graph = read(model([("Conv", "x w", "y", {})], {"w": INITS["w"]}))
    with pytest.raises(ValueError):
        graph.constants["w"][0] = 0
    assert torch.is_tensor(reference.run(graph, {"x": weights(1, 4, 9, 7)})["y"])
