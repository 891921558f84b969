"""Why verify says no, the worst first; and from what nothing can be concluded."""

import math

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from optgraph.api import compiling
from optgraph.compare.verify import verify, verify_net
from optgraph.ops import Conv
from optgraph.run.engine import Engine
from tests.support.networks import Builder, inception_a, xception
from tests.support.paths import ROOT
from tests.support.sabotage import rewritten, sabotaged, saved

CASES = ROOT / "tests" / "cases"


def test_a_fault_where_nothing_can_be_compared_is_said_so(tmp_path):
    path = saved(xception(), tmp_path)
    result = verify_net(sabotaged(path, "torch", -1, forget_after=True), path)
    assert not result.ok
    assert result.first_bad_region is None
    assert 0 < result.regions_compared < result.regions_total
    assert f"none of the {result.regions_compared} regions compared is wrong" in result.reason


def test_what_a_gpu_replays_is_what_counts(tmp_path):
    """The interpreter stands in for a GPU whose second run, the replay, goes wrong though each launch is right."""

    class Replaying(Engine):
        runs = 0

        def __call__(self, feeds, batch):
            self.runs += 1
            return {name: result * self.runs for name, result in super().__call__(feeds, batch).items()}

    path = saved(xception(), tmp_path)
    gpu = compiling.compile(path, "interpret")
    gpu.runtime = Replaying(gpu.plans, torch.device("cpu"))
    gpu.runtime.replays = True
    result = verify_net(gpu, path)
    assert result.first_bad_region is None and result.regions_compared == result.regions_total
    assert result.outputs[0].rel_l2 == pytest.approx(1.0) and not result.ok


def test_a_wrong_region_fails_even_where_the_output_hides_it(tmp_path):
    b = Builder(channels=4)
    inner = b.act(b.conv(b.x, 4, 3))
    faint = b.graph.add(Conv(kernel=(1, 1)), (inner, b.constant(4, 4, 1, 1, scale=1e-9))).output
    path = saved(b.done(b.add(b.conv(b.x, 4), faint)), tmp_path)
    result = verify_net(sabotaged(path, "torch", 0), path)
    assert result.outputs[0].rel_l2 <= result.bound
    assert not result.ok and result.first_bad_region["op"].startswith("Conv[kernel=3×3")


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_a_network_blind_to_its_input_is_refused(backend, tmp_path):
    def blind(model):
        first = next(node for node in model.graph.node if node.op_type == "Conv" and node.input[0] == "x")
        w = next(t for t in model.graph.initializer if t.name == first.input[1])
        w.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(w)), w.name))

    b = Builder()
    path = rewritten(saved(b.done(b.act(b.conv(b.act(b.conv(b.x, 6, 3)), 5))), tmp_path), blind)
    result = verify(path, backend)
    assert result.outputs[0].rel_l2 <= result.bound  # it agrees, which means nothing
    assert result.input_sensitivity == 0.0
    assert not result.ok and "does not depend on its input" in result.reason


def test_an_answer_that_moves_less_than_the_backend_is_off_is_refused(tmp_path):
    """Of numbers about 20 that an input moves by 0.2, float16 has ten bits; of numbers about 2,000, none."""
    for mean, ok in ((20.0, True), (5000.0, False)):
        b = Builder(channels=4)
        conv = Conv(kernel=(3, 3), pads=(1, 1, 1, 1))
        y = b.graph.add(conv, (b.x, b.constant(4, 4, 3, 3, scale=0.2), b.constant(4, mean=mean))).output
        path = saved(b.done(y), tmp_path)
        fine, coarse = (verify(path, "interpret", dtype) for dtype in ("fp32", "fp16"))
        assert fine.ok
        assert coarse.outputs[0].rel_l2 <= coarse.bound and coarse.ok == ok
        assert ok or "too little to tell" in coarse.reason


@pytest.mark.parametrize("backend", ["torch", "interpret"])
def test_nan_does_not_pass(backend, tmp_path):
    path = saved(inception_a(), tmp_path)
    result = verify_net(sabotaged(path, backend, -1, factor=math.nan), path)
    assert not result.ok and "NaN" in result.reason
    assert result.to_json()["outputs"][0]["rel_l2"] is None


def test_infinity_does_not_pass_even_where_the_reference_has_it(tmp_path):
    b = Builder(channels=4)
    x = b.x
    for _ in range(2):
        x = b.graph.add(Conv(kernel=(1, 1)), (x, b.constant(4, 4, 1, 1, scale=1e30))).output
    result = verify(saved(b.done(x), tmp_path), "torch")
    assert not result.ok and "Inf" in result.reason


def test_nan_is_said_first_and_who_makes_it(tmp_path):
    """Though the original does not depend on its input either."""
    b = Builder(channels=4)
    x = b.x
    for _ in range(3):
        x = b.act(b.graph.add(Conv(kernel=(1, 1)), (x, b.constant(4, 4, 1, 1, scale=0.0), b.constant(4))).output)
    path = saved(b.done(x), tmp_path)
    broken = sabotaged(path, "torch", 1, factor=math.nan)
    result = verify_net(broken, path)
    victim = [node for node in broken.fused.nodes() if "w" in node.op.slots][1]
    assert result.reason.startswith(f"output 'y0' has NaN or Inf, first made by region '{victim.name}'")
    assert verify(path, "torch").reason.startswith("the original's own answer does not depend on its input")


def test_an_infinity_inside_that_the_original_has_too_is_right(tmp_path):
    """The logarithm of 0, of which the exponential is 0 again."""
    nodes = [helper.make_node(op, [x], [y]) for op, x, y in (("Relu", "x", "r"), ("Log", "r", "l"), ("Exp", "l", "y"))]
    infos = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (1, 6, 5, 5)) for name in "xy"]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    result = verify(tmp_path / "model.onnx", "torch")
    assert result.ok and result.regions_compared == 3


def test_errors_that_add_up_are_no_region_s_fault(tmp_path):
    """Every region is within what one may be off, and the output is not: all were compared, so none is 'another'."""
    path = saved(xception(), tmp_path)
    result = verify_net(sabotaged(path, "torch", -1, factor=1 + 3e-5), path)
    assert not result.ok and result.first_bad_region is None
    assert result.regions_compared == result.regions_total
    assert "no region is off by more than 4.0e-05, the furthest is" in result.reason


def test_outputs_that_read_no_input_are_not_asked_to_depend_on_it():
    assert verify(CASES / "outputs.constant_output.onnx", "torch").ok


def test_a_mask_of_infinities_before_a_softmax_is_no_answer_that_stands_still():
    result = verify(CASES / "number_types.infinite_mask_constant.onnx", "torch")
    assert result.ok and result.input_sensitivity > 0.1


@pytest.mark.parametrize("name", ["bfloat16", "double_conv"])
def test_the_reference_of_types_that_onnx_runtime_has_not(name):
    result = verify(CASES / f"number_types.{name}.onnx", "torch")
    assert result.ok and result.regions_compared > 0
