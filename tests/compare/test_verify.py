"""verify finds what is wrong, and where; and refuses what nothing can be concluded from."""

import json
import math
import weakref

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from optgraph.api import net
from optgraph.base.errors import InputError
from optgraph.compare.oracle import coarseness, example
from optgraph.compare.verify import verify, verify_net
from optgraph.ir.graph import Graph
from optgraph.ir.values import BATCH
from optgraph.onnx import sessions
from optgraph.onnx.write import save_onnx
from optgraph.ops import Affine, Conv
from optgraph.passes import pipeline
from optgraph.passes.rewrite import Outcome
from optgraph.run.engine import Engine
from tests.support.networks import Builder, inception_a, inception_resnet, xception
from tests.support.two_inputs import shifted

BACKENDS = ("torch", "onnxruntime", "interpret")


def saved(graph, folder):
    path = folder / "model.onnx"
    save_onnx(graph, path)
    return path


def rewritten(path, change):
    """Applies `change` to the ONNX model at `path`."""
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)
    return path


def sabotage(index, factor=1.1, forget_after=False):
    """A pass that changes the weight of the index-th node that has one; `forget_after`: and hides what follows."""

    def run(graph: Graph) -> Outcome:
        nodes = graph.nodes()
        victim = [node for node in nodes if "w" in node.op.slots][index]
        w = graph.constants[victim.get("w")] * np.float32(factor)
        graph.update(victim, inputs=victim.inputs_with(w=graph.add_constant(w)), same_value=True)
        if forget_after:
            for node in nodes[nodes.index(victim) :]:
                for value in node.outputs:
                    graph.sources.pop(value, None)
        return Outcome(1)

    return pipeline.Pass("sabotage", "sabotage", run)


def sabotaged(path, backend, index, **options):
    broken = (sabotage(index, **options),)
    if backend == "onnxruntime":
        return net.compile(path, backend, simplify_passes=pipeline.SIMPLIFY + broken)
    return net.compile(path, backend, fuse_passes=pipeline.FUSE + broken)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("network", [inception_a, xception, inception_resnet])
def test_a_good_network_passes(network, backend, tmp_path):
    result = verify(saved(network(), tmp_path), backend, batch=2)
    assert result.ok and result.reason == ""
    assert [name for name, _, _ in result.outputs] == ["y0"]
    assert 0.0 <= result.outputs[0].rel_l2 <= result.bound == 1e-5
    assert result.first_bad_region is None
    assert result.input_sensitivity > 0.1
    assert result.regions_total > 3
    assert result.regions_compared >= 0.8 * result.regions_total
    assert (result.backend, result.dtype, result.batch) == (backend, "fp32", 2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("index", [0, 2, 4])
def test_a_changed_weight_is_found_at_its_region(backend, index, tmp_path):
    path = saved(xception(), tmp_path)
    broken = sabotaged(path, backend, index)
    graph = broken.simplified if backend == "onnxruntime" else broken.fused
    victim = [node for node in graph.nodes() if "w" in node.op.slots][index]

    result = verify_net(broken, path)

    assert not result.ok
    assert result.outputs[0].rel_l2 > result.bound
    assert result.first_bad_region["region"] == victim.name
    assert result.first_bad_region["onnx_nodes"] == list(victim.origin) != []
    assert result.first_bad_region["op"].startswith(victim.op.kind)
    assert victim.name in result.reason and victim.origin[0] in result.reason


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
    gpu = net.compile(path, "interpret")
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
    assert not result.ok and "two inputs" in result.reason


def test_a_coarse_dtype_needs_an_answer_that_depends_on_the_input_more(tmp_path):
    b = Builder(channels=4)
    conv = Conv(kernel=(3, 3), pads=(1, 1, 1, 1))
    y = b.graph.add(conv, (b.x, b.constant(4, 4, 3, 3, scale=0.2), b.constant(4, mean=20.0))).output
    path = saved(b.done(y), tmp_path)
    fine, coarse = (verify(path, "interpret", dtype) for dtype in ("fp32", "fp16"))
    assert 100 * fine.bound < fine.input_sensitivity == coarse.input_sensitivity < 0.3
    assert fine.ok
    assert coarse.outputs[0].rel_l2 <= coarse.bound and not coarse.ok


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
    plain = net.compile(path, "torch")
    feeds = example(plain.inputs, 1, seed=0)
    answers = {"y0": plain(feeds["x"])}
    off = {dtype: coarseness(plain.fused, dtype, feeds, answers) for dtype in ("fp32", "tf32", "fp16", "bf16")}
    assert off["fp32"] == 0.0
    assert off["tf32"] == pytest.approx(off["fp16"], rel=0.1)  # both have ten bits behind the point
    assert off["bf16"] > 4 * off["fp16"] > 8e-3


def test_json_has_the_fields_and_no_nan(tmp_path):
    path = saved(xception(), tmp_path)
    found = verify_net(sabotaged(path, "torch", 1), path).to_json()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["reference"].startswith("onnxruntime 1.")
    assert set(found["outputs"][0]) == {"name", "rel_l2", "max_abs"}
    assert set(found["first_bad_region"]) == {"region", "op", "onnx_nodes", "rel_l2"}
    assert {"backend", "ok", "input_sensitivity", "regions_compared", "regions_total", "reason"} <= set(found)


def test_reference_values_are_held_a_chunk_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(sessions, "CHUNK", 3)
    make, held, runs = sessions.session, [], []

    class Recorder:
        def __init__(self, *args, **kwargs):
            self.session = make(*args, **kwargs)

        def run(self, names, feeds):
            runs.append((len(names), sum(ref() is not None for ref in held)))
            results = self.session.run(names, feeds)
            held.extend(weakref.ref(array) for array in results)
            return results

    monkeypatch.setattr(sessions, "session", Recorder)
    result = verify(saved(inception_a(), tmp_path), "torch")
    assert result.ok
    asked, alive = zip(*runs[3:], strict=True)  # the first three are whole answers: to two inputs, and optimised
    assert sum(asked) >= result.regions_compared and max(asked) == 3 and len(asked) > 2
    assert set(alive) == {3}  # the answers stay, and nothing of the chunks before


def test_values_inside_a_local_function_are_compared(tmp_path):
    rng = np.random.default_rng(0)
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    block = helper.make_function(
        "local",
        "Block",
        ["a", "w"],
        ["b"],
        [
            helper.make_node("Conv", ["a", "w"], ["c"], pads=[1, 1, 1, 1], name="conv"),
            helper.make_node("Relu", ["c"], ["b"], name="relu"),
        ],
        opset,
    )
    weights = [numpy_helper.from_array(rng.standard_normal((3, 3, 3, 3), np.float32), f"w{i}") for i in (1, 2)]
    graph = helper.make_graph(
        [
            helper.make_node("Block", ["x", "w1"], ["h"], domain="local", name="first"),
            helper.make_node("Block", ["h", "w2"], ["y"], domain="local", name="second"),
        ],
        "functions",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 3, 8, 8])],
        weights,
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opset, functions=[block], ir_version=9), path)
    result = verify(path, "torch")
    assert result.ok and result.regions_compared == result.regions_total == 2


def test_another_input_shape_than_the_declared_one(tmp_path):
    def fix(model):
        for dim, size in zip(model.graph.input[0].type.tensor_type.shape.dim, (1, 12, 9, 9), strict=True):
            dim.dim_value = size

    path = rewritten(saved(inception_a(), tmp_path), fix)
    assert verify(path, "torch", input_shape=("N", 12, 13, 7), batch=3).ok
    with pytest.raises(InputError, match="fixes it to 1"):
        verify(path, "torch", batch=3)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [BATCH, 2])
def test_a_first_input_without_a_batch(backend, size, tmp_path):
    result = verify(saved(shifted(size), tmp_path), backend, batch=2)
    assert result.ok and result.batch == 2
    assert result.regions_compared == result.regions_total
