"""What ONNX Runtime gets wrong does not reach an answer: our sessions, the files we write, and the reference."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import optgraph
from optgraph.base.errors import OptgraphError
from optgraph.compare.verify import verify
from optgraph.onnx.sessions import InnerValues, session
from optgraph.onnx.write import to_onnx
from tests.support.quantised import Sketch

SHAPE = (1, 4, 8, 8)
BELOW = np.random.default_rng(0).normal(-1, 1, SHAPE).astype(np.float32)  # zeros around it win


def made(nodes, arrays=(), opset=17, shape=SHAPE, dtype=TensorProto.FLOAT):
    """A model of `nodes` from x of `shape` to y, with the arrays by name."""
    weights = [numpy_helper.from_array(np.asarray(array), name) for name, array in dict(arrays).items()]
    x = helper.make_tensor_value_info("x", dtype, shape)
    y = helper.make_tensor_value_info("y", dtype, [f"y{i}" for i in range(len(shape))])
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def padded(pool, margin=1, value=0.0, between=None, **attrs):
    """A pool behind a Pad of `value` around height and width."""
    pads = np.array([0, 0, margin, margin] * 2)
    nodes = [helper.make_node("Pad", ["x", "pads", "value"], ["p"])]
    nodes += [helper.make_node(between, ["p"], ["q"])] if between else []
    nodes += [helper.make_node(pool, ["q" if between else "p"], ["y"], kernel_shape=[3, 3], **attrs)]
    return made(nodes, {"pads": pads, "value": np.float32(value)})


POOLS = {
    "max": padded("MaxPool"),
    "max with a stride": padded("MaxPool", strides=[2, 2]),
    "max, dilated": padded("MaxPool", dilations=[2, 2]),
    "max behind an Identity": padded("MaxPool", between="Identity"),
    "max, padding of a window": padded("MaxPool", 3),
    "average, padding of a window": padded("AveragePool", 3),
}

PADS = np.array([0, 0, 1, 0, 0, 1])  # of one dimension, whose pools we keep as they are
NODES = [helper.make_node("Pad", ["x", "pads"], ["p"]), helper.make_node("MaxPool", ["p"], ["y"], kernel_shape=[3])]
POOLS["max of one dimension"] = made(NODES, {"pads": PADS}, shape=(4, 8, 8))


def default_session(model):
    """What any other user of ONNX Runtime has: all optimisations."""
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def plain(model, x=BELOW):
    return session(model.SerializeToString(), optimize=False).run(None, {"x": x})[0]


# Mended in 1.32. `OFF` can go when the package takes none that is older.
PAD_FUSION_IS_WRONG = tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 32)


@pytest.mark.parametrize("name", POOLS)
def test_pad_fusion_is_wrong_and_we_go_without(name):
    model = POOLS[name]
    x = BELOW.reshape([d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim])
    wanted = plain(model, x)
    try:
        wrong = default_session(model).run(None, {"x": x})[0]
    except Exception:  # it makes a pool that it then refuses
        wrong = np.full_like(wanted, np.nan)
    if PAD_FUSION_IS_WRONG:
        assert not np.allclose(wrong, wanted)
    np.testing.assert_allclose(session(model.SerializeToString()).run(None, {"x": x})[0], wanted, rtol=1e-6)
    np.testing.assert_allclose(optgraph.compile(model, "onnxruntime")(x), wanted, rtol=1e-6)
    written = to_onnx(optgraph.simplify(optgraph.read(model)))
    np.testing.assert_allclose(default_session(written).run(None, {"x": x})[0], wanted, rtol=1e-6)


def test_two_roundings_stay_two():
    sketch, y = Sketch(size=8, channels=4), "x"
    for scale, zero in ((0.1, 3), (0.13, -4), (0.05, 8), (0.2, 1)):
        y = sketch.qdq(y, scale, zero)
    model, x = sketch.model(y), np.concatenate([BELOW] * 4)
    wanted = plain(model, x)
    assert not np.array_equal(default_session(model).run(None, {"x": x})[0], wanted)
    for integers in (False, True):
        np.testing.assert_array_equal(
            session(model.SerializeToString(), integers=integers).run(None, {"x": x})[0], wanted
        )


def test_only_a_pad_of_zeros_before_a_pool_is_written_in_another_way():
    def values(model):
        written = to_onnx(optgraph.simplify(optgraph.read(model))).graph
        arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in written.initializer}
        return [arrays[node.input[2]] for node in written.node if node.op_type == "Pad"]

    (zero,) = values(padded("MaxPool"))
    assert zero == 0 and np.signbit(zero)
    assert values(padded("MaxPool", value=0.5)) == [0.5]
    pads = {"pads": np.array([0, 0, 1, 1] * 2), "value": np.float32(0)}
    nodes = [helper.make_node("Pad", ["x", "pads", "value"], ["p"]), helper.make_node("Relu", ["p"], ["y"])]
    (zero,) = values(made(nodes, pads))
    assert zero == 0 and not np.signbit(zero)


PARTS = {name: np.random.default_rng(1).uniform(0.5, 1.5, 4).astype(np.float32) for name in "sbmv"}
UNNAMED = {
    "BatchNormalization-9": (9, helper.make_node("BatchNormalization", ["x", *"sbmv"], ["q", "", "", "", ""]), PARTS),
    "Split, the first": (13, helper.make_node("Split", ["x"], ["q", "", "", ""], axis=1), {}),
    "Split, the second": (13, helper.make_node("Split", ["x"], ["", "q", "", ""], axis=1), {}),
    "MaxPool": (13, helper.make_node("MaxPool", ["x"], ["q", ""], kernel_shape=[2, 2]), {}),
}


@pytest.mark.parametrize("name", UNNAMED)
def test_outputs_without_a_name_do_not_kill_the_reference(name):
    """ONNX Runtime dies of the first three: of that, no test could tell."""
    opset, node, arrays = UNNAMED[name]
    model = made([node, helper.make_node("Relu", ["q"], ["y"])], arrays, opset)
    (found,) = InnerValues(model).run(["q"], {"x": BELOW})
    size = np.shape(found["q"])
    assert size == {"BatchNormalization-9": SHAPE, "MaxPool": (1, 4, 7, 7)}.get(name, (1, 1, 8, 8))
    if "Split" in name:
        np.testing.assert_array_equal(found["q"], BELOW[:, [int("first" not in name)]])


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_verify_of_a_batchnorm_with_outputs_without_a_name(backend, tmp_path):
    opset, node, arrays = UNNAMED["BatchNormalization-9"]
    onnx.save(made([node, helper.make_node("Relu", ["q"], ["y"])], arrays, opset), tmp_path / "model.onnx")
    assert verify(tmp_path / "model.onnx", backend).ok


def test_the_reference_has_sigmoids_as_they_are_defined():
    x = np.linspace(-80, 20, 1001, dtype=np.float32)
    model = made([helper.make_node("Sigmoid", ["x"], ["y"])], shape=x.shape)
    wanted = 1 / (1 + np.exp(-x.astype(np.float64)))
    (found,) = InnerValues(model).run(["y"], {"x": x})
    np.testing.assert_allclose(found["y"], wanted, rtol=3e-7)
    assert np.abs(plain(model, x) / wanted - 1).max() > 0.9  # else `exact_sigmoid` can go


def test_a_sigmoid_of_other_floats_is_left_to_onnx_runtime():
    x = np.linspace(-80, 20, 101)
    model = made([helper.make_node("Sigmoid", ["x"], ["y"])], shape=x.shape, dtype=TensorProto.DOUBLE)
    (found,) = InnerValues(model).run(["y"], {"x": x})
    assert found["y"].dtype == np.float64


def test_what_fails_in_a_run_is_said_in_one_line():
    model = made([helper.make_node("Add", ["x", "w"], ["y"])], {"w": np.ones(3, np.float32)}, shape=["n"])
    running = session(model.SerializeToString())
    with pytest.raises(OptgraphError, match="ONNX Runtime cannot run the model: ") as raised:
        running.run(None, {"x": np.ones(5, np.float32)})
    assert "\n" not in str(raised.value)
