import subprocess
import sys

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from optgraph.base.errors import ModelError
from optgraph.base.images import images
from optgraph.onnx.calibrate import SHIFT, calibrate
from optgraph.onnx.stripped import any_stripped, store_fills, strip
from tests.support.paths import GRAPHS

RNG = np.random.default_rng(3)


def make_model(nodes, constants, shape=("N", 3, "H", "W"), dtype=np.float32):
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    initializers = [numpy_helper.from_array(np.asarray(value, dtype), name) for name, value in constants.items()]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", kind, shape)],
        [onnx.ValueInfoProto(name="y")],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def conv_net(**options):
    """Conv with 48 filters, BatchNormalization, ReLU, pool, Gemm; the convolution and the Gemm are large."""
    return make_model(
        [
            helper.make_node("Conv", ["x", "w1", "b1"], ["c1"]),
            helper.make_node("BatchNormalization", ["c1", "scale", "shift", "mean", "var"], ["n1"]),
            helper.make_node("Relu", ["n1"], ["r1"]),
            helper.make_node("Conv", ["r1", "w2"], ["c2"], pads=[1, 1, 1, 1]),
            helper.make_node("GlobalAveragePool", ["c2"], ["p"]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], transB=1),
        ],
        {
            "w1": np.full((48, 3, 7, 7), 0.02),
            "b1": np.zeros(48),
            "scale": np.ones(48),
            "shift": np.zeros(48),
            "mean": np.zeros(48),
            "var": np.ones(48),
            "w2": np.full((40, 48, 3, 3), 0.02),
            "w3": np.full((110, 40), 0.02),
            "b3": np.zeros(110),
        },
        **options,
    )


def array(model, name):
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))


def evaluate(model, x, *values):
    """The outputs of `model`, or the named inner values."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    model.graph.output.extend(onnx.ValueInfoProto(name=v) for v in values)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(list(values) or None, {session.get_inputs()[0].name: x})


def relative(a, b):
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def test_strip_keeps_small_tensors_and_the_shape_of_large_ones():
    model = conv_net()
    bare = strip(model)
    assert any_stripped(bare) and not any_stripped(model)
    large = {t.name for t in bare.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL}
    assert large == {"w1", "w2", "w3"}
    assert list(next(t for t in bare.graph.initializer if t.name == "w2").dims) == [40, 48, 3, 3]
    assert bare.ByteSize() < model.ByteSize() / 20


def test_outputs_have_unit_variance_and_depend_on_the_image():
    filled = calibrate(strip(conv_net()), size=64)
    assert not any_stripped(filled)
    x = images(11, (2, 3, 64, 64))
    c1, n1, c2, y = evaluate(filled, x, "c1", "n1", "c2", "y")
    assert 0.6 < c1.std() < 1.6 and 0.6 < n1.std() < 1.6 and 0.6 < c2.std() < 2.5
    assert abs(n1.mean() - SHIFT) < 0.3
    assert relative(y[:1], y[1:]) > 0.5


def test_is_deterministic_in_the_seed_and_leaves_its_argument_alone():
    bare = strip(conv_net())
    before = bare.SerializeToString()
    first = calibrate(bare, seed=5, size=32)
    assert bare.SerializeToString() == before
    assert calibrate(bare, seed=5, size=32).SerializeToString() == first.SerializeToString()
    assert relative(array(calibrate(bare, seed=6, size=32), "w2"), array(first, "w2")) > 1.0


def test_weights_that_are_only_a_fill_are_drawn_and_stored():
    model = conv_net()
    fills = {"w1": (48, 3, 7, 7), "w2": (40, 48, 3, 3), "scale": (48,)}
    for name, dims in fills.items():
        shape = numpy_helper.from_array(np.array(dims, np.int64), f"{name}.shape")
        model.graph.initializer.remove(next(t for t in model.graph.initializer if t.name == name))
        model.graph.initializer.append(shape)
        value = numpy_helper.from_array(np.array([0.02], np.float32))
        model.graph.node.insert(0, helper.make_node("ConstantOfShape", [shape.name], [name], value=value))
    stored = store_fills(model)
    assert [node.op_type for node in stored.graph.node] == [node.op_type for node in conv_net().graph.node]
    assert any_stripped(stored) and (array(stored, "scale") == np.full(48, 0.02, np.float32)).all()
    refilled = calibrate(model, size=32, refill=True)
    assert not any_stripped(refilled)
    assert array(refilled, "w1").shape == fills["w1"] and array(refilled, "w2").std() > 0.01
    a, b = evaluate(refilled, images(1, (2, 3, 32, 32)))[0]
    assert np.linalg.norm(a - b) > 0.1 * np.linalg.norm(a)


def test_a_network_of_one_image_still_tells_images_apart():
    model = make_model(
        [
            helper.make_node("Flatten", ["x"], ["f"]),
            helper.make_node("Gemm", ["f", "w1", "b1"], ["g1"], transB=1),
            helper.make_node("Relu", ["g1"], ["r1"]),
            helper.make_node("Gemm", ["r1", "w2", "b2"], ["y"], transB=1),
        ],
        {"w1": np.ones((80, 192)), "b1": np.zeros(80), "w2": np.ones((70, 80)), "b2": np.zeros(70)},
        shape=(1, 3, 8, 8),
    )
    filled = calibrate(strip(model))
    first, second = (evaluate(filled, images(seed, (1, 3, 8, 8)))[0] for seed in (1, 2))
    for y in (first, second):
        assert 0.1 < y.std() < 10
    assert np.linalg.norm(first - second) > 0.1 * np.linalg.norm(first)


def test_a_full_model_stays_as_it_is_unless_refilled():
    model = conv_net()
    assert calibrate(model).SerializeToString() == model.SerializeToString()
    refilled = calibrate(model, size=32, refill=True)
    assert array(refilled, "w1").std() > 0.01 and array(refilled, "w3").std() > 0.01
    a, b = evaluate(refilled, images(1, (2, 3, 32, 32)))[0]
    assert relative(a, b) > 0.5


def test_a_weight_behind_transpose_and_cast_is_scaled_at_its_source():
    nodes = [
        helper.make_node("Transpose", ["w"], ["wt"], perm=[3, 2, 0, 1]),
        helper.make_node("Cast", ["wt"], ["wc"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "wc"], ["y"]),
    ]
    filled = calibrate(strip(make_model(nodes, {"w": np.zeros((9, 9, 3, 64))})), size=64)
    assert 0.6 < evaluate(filled, images(2, (1, 3, 64, 64)))[0].std() < 1.6
    assert array(filled, "w").std() < 0.3


def test_a_shared_bias_and_a_scalar_offset_keep_their_values_a_private_mean_does_not():
    nodes = [
        helper.make_node("Sub", ["x", "offset"], ["s"]),
        helper.make_node("Conv", ["s", "w1", "b"], ["c"]),
        helper.make_node("Sub", ["c", "mean"], ["m"]),
        helper.make_node("Conv", ["m", "w2", "b"], ["y"]),
    ]
    constants = {
        "offset": np.array(0.5),
        "w1": np.zeros((64, 3, 5, 5)),
        "b": np.full(64, 0.75),
        "mean": np.zeros((1, 64, 1, 1)),
        "w2": np.zeros((64, 64, 1, 1)),
    }
    filled = calibrate(strip(make_model(nodes, constants)), size=32)
    assert np.all(array(filled, "b") == 0.75) and array(filled, "offset") == 0.5
    assert array(filled, "mean").std() > 0.01
    m = evaluate(filled, images(4, (4, 3, 32, 32)), "m")[0]
    assert np.abs(m.mean((0, 2, 3)) - SHIFT).mean() < 0.5


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_square_matrix_does_not_answer_to_what_all_images_share(transposed):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "square"], ["y"], transB=transposed),
    ]
    filled = calibrate(strip(make_model(nodes, {"w": np.zeros((96, 3, 5, 5)), "square": np.zeros((96, 96))})), size=48)
    y = evaluate(filled, images(9, (8, 3, 48, 48)))[0]
    assert np.linalg.norm(y.mean(0)) < np.linalg.norm(y.std(0))


def test_constant_nodes_channels_last_and_a_fixed_batch_of_one():
    weight = numpy_helper.from_array(np.zeros((512, 3, 3, 3), np.float32), "value")
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Constant", [], ["w"], value=weight),
        helper.make_node("Conv", ["t", "w"], ["c"]),
        helper.make_node("ReduceMean", ["c"], ["r"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["r", "w2"], ["y"]),
    ]
    bare = strip(make_model(nodes, {"w2": np.zeros((512, 10))}, (1, 24, 24, 3)))
    assert sum(a.t.data_location for n in bare.graph.node for a in n.attribute) == 1
    filled = calibrate(bare)
    a, b = (evaluate(filled, images(seed, (1, 24, 24, 3), channels_last=True))[0] for seed in (1, 2))
    assert np.isfinite(a).all() and np.abs(a).max() < 50 and relative(a, b) > 0.5


def test_half_precision_stays_half_precision():
    filled = calibrate(strip(conv_net(dtype=np.float16)), size=32)
    assert array(filled, "w2").dtype == np.float16
    assert np.isfinite(array(filled, "w2")).all()
    assert 0.01 < array(filled, "w2").std() < 1.0


def test_a_node_that_cannot_run_is_named():
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], name="stem")]
    with pytest.raises(ModelError, match=r"node 'stem' \(Conv\) cannot be calibrated"):
        calibrate(strip(make_model(nodes, {"w": np.zeros((64, 5, 5, 5))})), size=32)
    with pytest.raises(ModelError, match="int64 input"):
        calibrate(strip(make_model(nodes, {"w": np.zeros((64, 5, 5, 5))}, dtype=np.int64)))


def test_images_are_smooth_and_differ():
    picture = images(0, (3, 3, 64, 64))
    assert picture.dtype == np.float32 and 0.5 < picture.std() < 2.0
    step = np.diff(picture, axis=3).std()
    assert step < 0.6 * picture.std()
    assert relative(picture[0], picture[1]) > 0.5
    assert images(0, (1, 20, 30, 3), channels_last=True).shape == (1, 20, 30, 3)


def test_command_line(tmp_path):
    onnx.save(strip(conv_net()), tmp_path / "in.onnx")
    command = [sys.executable, "-m", "optgraph", "calibrate", "in.onnx", "out.onnx", "--size", "32", "--seed", "2"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert onnx.load(tmp_path / "out.onnx") == calibrate(strip(conv_net()), seed=2, size=32)
    subprocess.run([*command, "--refill"], cwd=tmp_path, check=True)
    assert onnx.load(tmp_path / "out.onnx") == calibrate(strip(conv_net()), seed=2, size=32, refill=True)


@pytest.mark.parametrize("name", ["torch_bn_inception_v3", "keras_torch_resnet50_v2", "dynamo_mobilenet_v1"])
def test_real_graphs(name):
    filled = calibrate(onnx.load(GRAPHS / f"{name}.onnx", load_external_data=False))
    shape = tuple(d.dim_value or 1 for d in filled.graph.input[0].type.tensor_type.shape.dim)
    inner = [v for n in filled.graph.node if n.op_type in ("Conv", "Add", "Gemm", "MatMul") for v in n.output]
    first = evaluate(filled, images(7, shape, shape[3] == 3), filled.graph.output[0].name, *inner)
    second = evaluate(filled, images(8, shape, shape[3] == 3))
    assert max(np.abs(value).max() for value in first) < 100
    assert relative(second[0], first[0]) > 0.1
