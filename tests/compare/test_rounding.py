"""Rounding is not taken for a fault, nor a fault for rounding."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from optgraph.api import compiling
from optgraph.base.errors import InputError
from optgraph.compare.oracle import coarseness
from optgraph.compare.verify import verify, verify_net
from optgraph.onnx import ort_faults
from optgraph.onnx.apart import Apart
from optgraph.onnx.sessions import session
from optgraph.ops import Affine, Conv, Pad, Pool
from optgraph.run.example import example
from tests.support.networks import Builder, xception
from tests.support.sabotage import sabotaged, saved


def test_a_network_that_rounding_alone_moves_is_not_blamed_for_it(tmp_path):
    """Adding 1000 and taking it away again costs the reference ten bits, unless the two are folded."""
    b = Builder(channels=4)
    x = b.graph.add(Affine(), (b.conv(b.x, 4, 3), *(b.constant(4, mean=m, scale=0.0) for m in (1.0, 1000.0)))).output
    x = b.graph.add(Affine(), (x, *(b.constant(4, mean=m, scale=0.0) for m in (1.0, -1000.0)))).output
    path = saved(b.done(b.conv(x, 4)), tmp_path)
    result = verify(path, "torch")
    assert 1e-5 < result.outputs[0].rel_l2 <= result.bound < 1e-4
    assert result.bound == 2 * result.noise
    assert result.ok


def test_half_precision_has_its_own_bound_and_the_reference_backends_have_none(tmp_path):
    path = saved(xception(), tmp_path)
    half, single = verify(path, "interpret", "fp16"), verify(path, "torch", "fp16")
    assert half.ok and (half.dtype, half.bound) == ("fp16", 5e-3)
    assert 1e-5 < half.outputs[0].rel_l2 < 5e-3
    assert single.ok and (single.dtype, single.bound) == ("fp32", 1e-5)


def test_a_network_that_rounded_weights_alone_move_is_not_blamed_for_it(tmp_path):
    """Every pixel is about 40, which a bias takes away after the product: what a weight is off by stays."""
    b = Builder(channels=32)
    high = b.act(b.graph.add(Affine(), (b.x, b.constant(32, mean=1.0, scale=0.0), b.constant(32, mean=40.0))).output)
    w = b.constant(8, 32, 1, 1, scale=32**-0.5)
    bias = b.graph.add_constant(-40 * b.graph.constants[w].sum((1, 2, 3)))
    y = b.graph.add(Conv(kernel=(1, 1)), (high, w, bias)).output
    path = saved(b.done(y), tmp_path)
    half = verify(path, "interpret", "fp16")
    assert half.bound == 2 * half.noise > 5e-3 and half.ok
    assert 5e-3 < half.outputs[0].rel_l2 <= half.bound
    plain = compiling.compile(path, "torch")
    feeds = example(plain.inputs, 1, seed=0)
    answers = {"y0": plain(feeds["x"])}
    off = {
        dtype: coarseness(plain, dtype, [feeds], [answers], {"y0": 0.0}) for dtype in ("fp32", "tf32", "fp16", "bf16")
    }
    assert off["fp32"] == 0.0
    assert off["tf32"] == pytest.approx(off["fp16"], rel=0.1)  # both have ten bits behind the point
    assert off["bf16"] > 4 * off["fp16"] > 8e-3


def test_a_fault_of_onnx_runtime_s_optimiser_is_named_and_allows_nothing(tmp_path, monkeypatch):
    """Its Pad_Fusion, which our sessions go without."""
    monkeypatch.setattr(ort_faults, "OFF", ())
    monkeypatch.setattr(Apart, "opener", lambda *_: session)
    b = Builder(channels=4)
    below = b.conv(b.x, 4, 3)
    padded = b.graph.add(Pad(pads=(0, 0, 1, 1, 0, 0, 1, 1)), (below,)).output
    pooled = b.graph.add(Pool(mode="max", kernel=(3, 3)), (padded,)).output
    path = saved(b.done(b.conv(pooled, 4)), tmp_path)
    model = onnx.load(path)  # as others write it, with 0 and not -0.0
    (value,) = (node.input[2] for node in model.graph.node if node.op_type == "Pad")
    for tensor in model.graph.initializer:
        if tensor.name == value:
            assert np.signbit(numpy_helper.to_array(tensor))
            tensor.CopyFrom(numpy_helper.from_array(np.zeros((), np.float32), value))
    onnx.save(model, path)
    result = verify(path, "torch")
    assert result.ok and result.bound == 1e-5 and result.noise < 1e-5
    (note,) = result.notes
    assert note.startswith("ONNX Runtime's optimiser changes this model by ") and note.endswith("compared without it")


def ending(folder, *nodes, shape=(1, 4, 9, 9), weight=1.0, bias=0.0):
    """A 1×1 convolution of x, then `nodes`, from 'z' to 'y'."""
    rng = np.random.default_rng(0)
    arrays = {"w": rng.normal(0, weight, (6, 4, 1, 1)), "b": np.full(6, bias)}
    infos = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, size) for name, size in (("x", shape), ("y", None))
    ]
    weights = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w", "b"], ["z"]), *nodes], "g", infos[:1], infos[1:], weights
    )
    model = onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    )
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "interpret"])
def test_the_background_of_a_detector(backend, tmp_path):
    """Where a sigmoid's answers are 1e-9 everywhere, ONNX Runtime's own are 0: that is nothing of 1."""
    path = ending(tmp_path, helper.make_node("Sigmoid", ["z"], ["y"]), bias=-20.0)
    result = verify(path, backend)
    assert result.ok and result.outputs[0].probability == result.outputs[0].max_abs < 1e-7
    assert result.input_sensitivity > 0.01  # at the logits
    assert "the same everywhere" in result.notes[0]
    half = verify(path, "interpret", "fp16")
    assert half.ok


def test_a_wrong_sigmoid_is_still_found(tmp_path):
    path = ending(tmp_path, helper.make_node("Sigmoid", ["z"], ["y"]))
    assert verify(path, "interpret", "fp16").ok
    result = verify_net(sabotaged(path, "interpret", 0, factor=1.001), path)
    assert not result.ok and result.notes == ()


def test_a_sure_softmax_is_judged_at_its_logits(tmp_path):
    """Of every image it says the same class, with a probability of 1."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["z"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Add", ["f", "c"], ["l"]),
        helper.make_node("Softmax", ["l"], ["y"], axis=1),
    ]
    path = ending(tmp_path, *nodes, weight=3.0)
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.float32([60, 0, 0, 0, 0, 0]), "c"))
    onnx.save(model, path)
    half = verify(path, "interpret", "fp16")
    assert half.ok and half.input_sensitivity > 1e-3
    (output,) = half.outputs
    assert output.top1 == output.top5 == 1.0 and output.probability < 1e-6


def test_several_inputs_and_the_worst_of_them(tmp_path):
    nodes = [helper.make_node("Flatten", ["z"], ["f"]), helper.make_node("Softmax", ["f"], ["y"], axis=1)]
    path = ending(tmp_path, *nodes)
    rng = np.random.default_rng(0)
    inputs = [{"x": rng.normal(0, scale, (1, 4, 9, 9)).astype(np.float32)} for scale in (0.1, 1.0, 3.0)]
    result = verify(path, "torch", inputs=inputs)
    assert result.ok and result.inputs == 3 and result.outputs[0].top1 == 1.0
    broken = sabotaged(path, "torch", 0, factor=1.3)
    alone = [verify_net(broken, path, inputs=[feed]) for feed in inputs]
    together = verify_net(broken, path, inputs=inputs)
    assert together.outputs[0].rel_l2 == max(one.outputs[0].rel_l2 for one in alone)
    assert together.outputs[0].top1 == pytest.approx(np.mean([one.outputs[0].top1 for one in alone]))
    assert together.first_bad_region == max(alone, key=lambda one: one.outputs[0].rel_l2).first_bad_region
    with pytest.raises(InputError, match="expects float32"):
        verify(path, "torch", inputs=[{"x": np.zeros((1, 4, 8, 8), np.float32)}])
