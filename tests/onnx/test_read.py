"""Import: what each ONNX operator becomes, against ONNX Runtime on the same model; and models that are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from optgraph.base.errors import InputError, ModelError
from optgraph.ir.graph import Source
from optgraph.onnx.read import read
from optgraph.run import reference

RNG = np.random.default_rng(0)
FLOAT = TensorProto.FLOAT


def weights(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def model(nodes, inits=None, shape=("n", 4, 9, 7), opset=17, outputs=("y",), dtype=FLOAT, **kwargs) -> onnx.ModelProto:
    """A model of input x; `nodes` are (op_type, inputs, output, attributes) or NodeProtos."""
    protos = [
        n if isinstance(n, onnx.NodeProto) else helper.make_node(n[0], n[1].split(), n[2].split(), name=n[2], **n[3])
        for n in nodes
    ]
    graph = helper.make_graph(
        protos,
        "g",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info(o, FLOAT, None) for o in outputs],
        [numpy_helper.from_array(v, k) for k, v in (inits or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, **kwargs)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def agree(proto: onnx.ModelProto, batch: int = 2) -> dict[str, int]:
    """Asserts that the imported graph computes what ONNX Runtime does; returns the op kinds."""
    graph = read(proto)
    graph.verify()
    shape = [batch if isinstance(d, str) else d for d in graph.shape("x")]
    x = RNG.standard_normal(shape).astype(np.float32)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": x})
    actual = reference.run(graph, {"x": x})
    for info, e in zip(session.get_outputs(), expected, strict=True):
        got = actual[info.name].numpy()
        assert got.shape == e.shape
        assert np.linalg.norm(got - e) <= 1e-5 * np.linalg.norm(e)
        assert np.linalg.norm(e) > 0
    kinds: dict[str, int] = {}
    for node in graph.nodes():
        kinds[node.op.kind] = kinds.get(node.op.kind, 0) + 1
    return kinds


CASES = {
    "conv_same_upper": [("Conv", "x w", "y", {"auto_pad": "SAME_UPPER", "strides": [2, 2]})],
    "conv_same_lower": [("Conv", "x w", "y", {"auto_pad": "SAME_LOWER", "strides": [2, 2]})],
    "conv_valid_dilated": [("Conv", "x w", "y", {"auto_pad": "VALID", "dilations": [2, 1]})],
    "conv_asymmetric_pads": [("Conv", "x w b", "y", {"pads": [0, 1, 2, 1], "strides": [2, 1]})],
    "max_ceil": [("MaxPool", "x", "y", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1})],
    "max_ceil_pads": [
        ("MaxPool", "x", "y", {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1, "pads": [1, 1, 1, 1]})
    ],
    "max_same": [("MaxPool", "x", "y", {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"})],
    "average_ceil": [("AveragePool", "x", "y", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1})],
    "average_excluding": [("AveragePool", "x", "y", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]})],
    "average_including": [
        ("AveragePool", "x", "y", {"kernel_shape": [3, 3], "pads": [1, 0, 1, 2], "count_include_pad": 1})
    ],
    "global_average": [("GlobalAveragePool", "x", "y", {})],
    "global_max": [("GlobalMaxPool", "x", "y", {})],
    "batchnorm": [("BatchNormalization", "x s b m v", "y", {"epsilon": 1e-3})],
    "sum_of_three": [("Relu", "x", "r", {}), ("Sum", "x r x", "y", {})],
    "sum_of_one": [("Sum", "x", "y", {})],
    "sub_div": [("Sub", "x c", "d", {}), ("Div", "d scalar", "y", {})],
    "min_max": [("Max", "x zero", "h", {}), ("Min", "one h", "y", {})],
    "clip": [("Clip", "x zero one", "y", {})],
    "clip_one_bound": [
        helper.make_node("Clip", ["x", "", "one"], ["y"]),
    ],
    "leaky": [("LeakyRelu", "x", "y", {"alpha": 0.3})],
    "sigmoid_tanh": [("Sigmoid", "x", "h", {}), ("Tanh", "h", "y", {})],
    "hard": [("HardSigmoid", "x", "h", {"alpha": 0.3}), ("HardSwish", "h", "y", {})],
    "softmax_default_axis": [("Softmax", "x", "y", {})],
    "lrn": [("LRN", "x", "y", {"size": 3, "alpha": 0.5})],
    "flatten_gemm": [
        ("GlobalAveragePool", "x", "p", {}),
        ("Flatten", "p", "f", {}),
        ("Gemm", "f fc fb", "y", {"transB": 1}),
    ],
    "gemm_scaled": [
        ("GlobalAveragePool", "x", "p", {}),
        ("Flatten", "p", "f", {}),
        ("Gemm", "f fct fb", "y", {"alpha": 0.5, "beta": 2.0}),
    ],
    "gemm_computed_bias": [
        ("GlobalAveragePool", "x", "p", {}),
        ("Flatten", "p", "f", {}),
        ("Add", "fb fb", "twice", {}),
        ("Gemm", "f fc twice", "y", {"transB": 1}),
    ],
    "squeeze_matmul": [
        ("GlobalAveragePool", "x", "p", {}),
        ("Squeeze", "p ax23", "q", {}),
        ("MatMul", "q fct", "y", {}),
    ],
    "reduce_mean": [("ReduceMean", "x", "y", {"axes": [-1, -2], "keepdims": 0})],
    "reduce_max": [("ReduceMax", "x", "y", {"axes": [2, 3], "keepdims": 1})],
    "unsqueeze": [("Unsqueeze", "x ax0", "u", {}), ("Squeeze", "u ax0", "y", {})],
    "transpose_default": [("Transpose", "x", "t", {}), ("Transpose", "t", "y", {})],
    "split_equal": [("Split", "x", "p q", {"axis": 1}), ("Sub", "p q", "y", {})],
    "split_sizes": [("Split", "x sizes", "p q", {"axis": 1}), ("Concat", "q p", "y", {"axis": 1})],
    "slice": [("Slice", "x starts ends axes steps", "y", {})],
    "pad_axes": [("Pad", "x pads", "y", {})],
    "dropout_mask": [("Dropout", "x", "d mask", {}), ("Relu", "d", "y", {})],
    "dropout": [("Dropout", "x", "d", {}), ("Relu", "d", "y", {})],
    "constant": [
        helper.make_node("Constant", [], ["k"], value_floats=[2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]),
        ("Mul", "x k", "y", {}),
    ],
    "identity_of_weight": [("Identity", "w", "w2", {}), ("Conv", "x w2", "y", {})],
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
    "expand_same": [("Shape", "x", "dims", {}), ("Expand", "x dims", "y", {})],
    "cast_round_trip": [("Cast", "x", "d", {"to": TensorProto.DOUBLE}), ("CastLike", "d x", "y", {})],
    "opaque_elu": [("Elu", "x", "e", {"alpha": 0.7}), ("Conv", "e w", "y", {})],
    "opaque_transposed_conv": [("ConvTranspose", "x wt", "y", {"strides": [2, 2]})],
}
INITS = {
    "w": weights(5, 4, 3, 2),
    "wt": weights(4, 3, 2, 2),
    "b": weights(4 + 1)[:5],
    "s": weights(4),
    "m": weights(4),
    "v": np.abs(weights(4)) + 0.1,
    "c": weights(1, 4, 1, 1),
    "scalar": np.array(2.5, np.float32),
    "zero": np.array(0.0, np.float32),
    "one": np.array(1.0, np.float32),
    "fc": weights(6, 4),
    "fct": weights(4, 6),
    "fb": weights(6),
    "ax0": ints(0),
    "ax23": ints(2, 3),
    "sizes": ints(1, 3),
    "starts": ints(-1, 1),
    "ends": ints(-100, 6),
    "axes": ints(2, 3),
    "steps": ints(-2, 2),
    "pads": ints(0, 0, 1, 0, 0, 0, 2, 3),
    "minus": ints(-1),
    "zero_i": np.array(0, np.int64),
    "zero_v": ints(0),
    "one_v": ints(1),
    "two_v": ints(2),
}


@pytest.mark.parametrize("name", CASES)
def test_operator_computes_what_onnx_runtime_does(name: str) -> None:
    nodes = CASES[name]
    used = {i for n in nodes for i in (n.input if isinstance(n, onnx.NodeProto) else n[1].split())}
    inits = {k: v for k, v in INITS.items() if k in used}
    if name == "batchnorm":
        inits["b"] = INITS["b"][:4]
    kinds = agree(model(nodes, inits, opset=13 if name == "reduce_mean" or name == "reduce_max" else 17))
    assert "Opaque" not in kinds
    assert any(k in ("Elu", "ConvTranspose") for k in kinds) == name.startswith("opaque")


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


def test_softmax_before_opset_13_ran_over_all_later_axes() -> None:
    assert agree(model([("Softmax", "x", "y", {"axis": 1})], opset=11)) == {"Reshape": 2, "Softmax": 1}
    assert agree(model([("Softmax", "x", "y", {"axis": 3})], opset=11)) == {"Softmax": 1}


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
    with pytest.raises(ModelError, match=r"--input-shape N,3,299,299"):
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
    with pytest.raises(ModelError, match=r"node 'branch' \(If\): control flow is not supported"):
        read(model([node], {"c": np.array(True)}))


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
