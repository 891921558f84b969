"""`optgraph check`: everything that is not supported, in one go, without weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from optgraph.api.check import check
from optgraph.onnx.stripped import strip
from tests.support.cli_models import NODES, call, classifier, ok_json, saved


def broken(declare: bool) -> onnx.ModelProto:
    """The classifier with an unknown operator, a wrong weight, control flow and a training batchnorm; `declare`: with
    the shapes that exporters note inside."""
    model = classifier(weights={"right.w": np.ones((5, 7, 1, 1), np.float32)})
    nodes = {node.output[0]: node for node in model.graph.node}
    nodes["bn"].attribute.append(helper.make_attribute("training_mode", 1))
    nodes["act"].op_type = "Frobnicate"
    branch = helper.make_graph(
        [helper.make_node("Relu", ["left"], ["t"])], "t", [], [helper.make_tensor_value_info("t", 1, None)]
    )
    choice = helper.make_node("If", ["left"], ["left.relu"], name="choice", then_branch=branch, else_branch=branch)
    nodes["left.relu"].CopyFrom(choice)
    model.graph.node[-1].op_type = "LpNormalization"  # known, but there is no kernel
    if declare:
        shapes = {"bn": [8, 12, 12], "act": [8, 12, 12], "right": [5, 12, 12], "left.relu": [6, 12, 12]}
        for name, shape in shapes.items():
            model.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *shape]))
    return model


def test_all_of_them_at_once() -> None:
    found = check(broken(declare=True))
    assert not found.ok and found.nodes == NODES and found.unjudged == ()
    assert [(u.node, u.op, u.attribute) for u in found.unsupported] == [
        ("/bn/BatchNormalization", "BatchNormalization", "training_mode"),
        ("/act/Relu", "Frobnicate", ""),
        ("choice", "If", "else_branch"),
        ("/right/Conv", "Conv", ""),
    ]
    reasons = [u.reason for u in found.unsupported]
    for reason, part in zip(reasons, ("training", "no operator Frobnicate", "control flow", "8 channels"), strict=True):
        assert part in reason
    remedies = [u.remedy for u in found.unsupported]
    assert remedies[:3] == [
        "export the model for inference (model.eval())",
        "export it from standard operators",
        "export a static graph (trace the model)",
    ]
    assert remedies[3]
    assert [(f.op, f.nodes) for f in found.fallbacks] == [("LpNormalization", ("/y/Softmax",))]


def test_without_declared_shapes_the_rest_is_judged_by_operator() -> None:
    found = check(broken(declare=False))
    assert [u.node for u in found.unsupported] == ["/bn/BatchNormalization", "/act/Relu", "choice"]
    assert "/right/Conv" in found.unjudged and "/y/Softmax" in found.unjudged
    assert found.fused_nodes == 1  # the stem, which can be compiled


def test_a_given_shape_overrides_the_declared_ones() -> None:
    found = check(broken(declare=True), ("N", 3, 20, 20))
    assert "/right/Conv" in found.unjudged


def test_a_good_model_needs_no_weights() -> None:
    model = strip(classifier(width=256, weights={"left.w": np.ones((6, 256, 1, 1), np.float32)} | wide()))
    assert any(tensor.external_data for tensor in model.graph.initializer)
    found = check(model)
    assert found.ok and found.unsupported == found.unjudged == found.fallbacks == ()
    assert 0 < found.fused_nodes < NODES


def wide() -> dict[str, np.ndarray]:
    return {"right.w": np.ones((5, 256, 1, 1), np.float32)}


def test_weights_in_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(classifier(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "weights.bin").unlink()
    assert call("check", path).exit_code == 0
    assert call("compile", path).exit_code == 2


def test_a_size_that_only_the_data_tells() -> None:
    model = classifier()
    model.graph.node.append(helper.make_node("NonZero", ["y"], ["where"], name="nonzero"))
    model.graph.output.append(helper.make_tensor_value_info("where", TensorProto.INT64, None))
    (unsupported,) = check(model).unsupported
    assert unsupported.node == "nonzero" and "only when it runs" in unsupported.reason


def test_the_command_line(tmp_path: Path) -> None:
    model = saved(tmp_path, broken(declare=True))
    result = call("check", model)
    assert result.exit_code == 1 and result.stderr == ""
    for text in ("/act/Relu", "Frobnicate", "training_mode", "trace the model", "4 of 13 nodes", "LpNormalization ×1"):
        assert text in result.stdout
    result = call("check", model, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert not found["ok"] and len(found["unsupported"]) == 4
    assert set(found["unsupported"][0]) == {"node", "op", "attribute", "reason", "remedy"}
    assert found["fallbacks"][0]["nodes"] == ["/y/Softmax"]
    good = ok_json("check", saved(tmp_path))
    assert good["ok"] and good["unsupported"] == []
    assert "0 fallback" not in call("check", saved(tmp_path)).stdout
    assert ok_json("check", saved(tmp_path, broken(declare=False)), "--cut", "stem")["ok"]
    assert call("check", tmp_path / "none.onnx").exit_code == 2
    assert call("check", saved(tmp_path, classifier(shape=("n", 3, "h", "w")))).exit_code == 2
