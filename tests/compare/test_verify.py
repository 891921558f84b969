"""verify finds what is wrong, and where."""

import json
import weakref

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from optgraph.base.errors import InputError
from optgraph.compare.verify import verify, verify_net
from optgraph.ir.values import BATCH
from optgraph.onnx import sessions
from optgraph.onnx.apart import Apart
from tests.support.networks import inception_a, inception_resnet, xception
from tests.support.sabotage import rewritten, sabotaged, saved
from tests.support.two_inputs import shifted

BACKENDS = ("torch", "onnxruntime", "interpret")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("network", [inception_a, xception, inception_resnet])
def test_a_good_network_passes(network, backend, tmp_path):
    result = verify(saved(network(), tmp_path), backend, batch=2)
    assert result.ok and result.reason == ""
    assert [output.name for output in result.outputs] == ["y0"]
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


def test_json_has_the_fields_and_no_nan(tmp_path):
    path = saved(xception(), tmp_path)
    found = verify_net(sabotaged(path, "torch", 1), path).to_json()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["reference"].startswith("onnxruntime 1.")
    assert set(found["outputs"][0]) == {"name", "rel_l2", "max_abs", "top1", "top5", "probability"}
    assert set(found["first_bad_region"]) == {"region", "op", "onnx_nodes", "rel_l2"}
    assert {"backend", "ok", "input_sensitivity", "regions_compared", "regions_total", "reason"} <= set(found)


def test_reference_values_are_held_a_chunk_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(sessions, "CHUNK", 3)
    ask, held, runs = Apart.ask, [], []

    def recorded(self, what, kind, *request):
        if kind != "run":
            return ask(self, what, kind, *request)
        runs.append((len(request[0]), sum(ref() is not None for ref in held)))
        results = ask(self, what, kind, *request)
        held.extend(weakref.ref(array) for array in results)
        return results

    monkeypatch.setattr(Apart, "ask", recorded)
    result = verify(saved(inception_a(), tmp_path), "torch")
    assert result.ok
    asked, alive = zip(*runs[3:], strict=True)  # the first three are whole answers: to two inputs, and optimised
    assert sum(asked) >= result.regions_compared and max(asked) == 3 and len(asked) > 2
    assert set(alive) == {1}  # the answer stays, and nothing of the chunks before


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
