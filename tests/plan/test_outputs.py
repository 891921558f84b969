"""Cutting a network off at any tensor, in Python and on the command line; and refusing what has no kernel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import optgraph
from optgraph.base.errors import InputError, ModelError
from optgraph.compare.bench import bench
from optgraph.compare.verify import verify
from optgraph.onnx.parts import cut
from optgraph.onnx.sessions import InnerValues
from tests.support.cli_models import NODES, call, classifier, ok, ok_json, saved
from tests.support.paths import ROOT


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((2, 3, 12, 12)).astype(np.float32)


def inside(x: np.ndarray, *names: str) -> dict[str, np.ndarray]:
    """What ONNX Runtime has for these values of the classifier."""
    (values,) = InnerValues(classifier()).run(names, {"x": x})
    return values


def close(got: np.ndarray, expected: np.ndarray) -> None:
    assert got.shape == expected.shape and np.linalg.norm(expected) > 0
    assert np.linalg.norm(got - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "interpret"])
def test_a_feature_extractor(backend: str, images: np.ndarray) -> None:
    net = optgraph.compile(classifier(), backend, outputs=["pooled"])
    assert list(net.outputs) == ["pooled"] and net.source.nodes == NODES - 3
    close(net(images), inside(images, "pooled")["pooled"])


def test_several_outputs_come_by_name(images: np.ndarray) -> None:
    """`bn` is inside what a fused convolution with ReLU computes: to show it, the two stay apart."""
    names = ["logits", "bn", "cat"]
    results = optgraph.compile(classifier(), "torch", outputs=names)(images)
    assert isinstance(results, dict) and list(results) == names
    for name, expected in inside(images, *names).items():
        close(results[name], expected)


def test_the_rest_need_not_be_supported(images: np.ndarray) -> None:
    model = classifier()
    model.graph.node[-1].op_type = "Frobnicate"
    with pytest.raises(ModelError, match="Frobnicate"):
        optgraph.compile(model)
    close(optgraph.compile(model, outputs=["logits"])(images), inside(images, "logits")["logits"])
    assert model.graph.output[0].name == "y"  # the caller's model is as it was


def test_inputs_that_are_not_needed_go() -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xzy"]
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Add", ["r", "z"], ["y"])]
    graph = helper.make_graph(nodes, "g", values[:2], values[2:])
    net = optgraph.compile(helper.make_model(graph), "torch", outputs=["r"])
    assert list(net.inputs) == ["x"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("poold", "close are pooled"),
        ("/pooled/GlobalAveragePool", "that is a node: its output is pooled"),
        ("stem.w", "an input or a weight"),
        ("x", "an input or a weight"),
        ("QQQQ", "the outputs are y"),
        ("", "no node computes it"),
    ],
)
def test_a_name_that_is_none(name: str, says: str) -> None:
    with pytest.raises(InputError, match=f"cannot cut at '{name}'.*{says}"):
        cut(classifier(), [name])


def test_a_network_of_an_exporter(tmp_path: Path) -> None:
    graph = ROOT / "examples" / "graphs" / "dynamo_mobilenet_v1.onnx"
    model = tmp_path / "mobilenet.onnx"
    ok("calibrate", graph, model, "--size", 32)
    nodes = onnx.load(model).graph.node
    middle = [node.output[0] for node in nodes if node.op_type == "Conv"][13]
    found = verify(model, "torch", outputs=[nodes[-1].output[0], middle])
    assert found.ok and [o.name for o in found.outputs] == [nodes[-1].output[0], middle]
    assert 0 < max(o.rel_l2 for o in found.outputs) < 1e-5


def test_the_command_line(tmp_path: Path, images: np.ndarray) -> None:
    model, artifact = saved(tmp_path), tmp_path / "features.optgraph"
    ok("compile", model, "-o", artifact, "--cut", "pooled", "--cut", "left.relu")
    np.save(tmp_path / "x.npy", images)
    ok("run", artifact, "--input", tmp_path / "x.npy", "-o", tmp_path / "y.npz")
    with np.load(tmp_path / "y.npz") as results:
        for name, expected in inside(images, "pooled", "left.relu").items():
            close(results[name], expected)
    ok("verify", artifact)
    ok("verify", model, "--cut", "left.relu")
    assert "wrong" not in ok("run", model, "--cut", "left.relu")
    assert list(ok_json("run", model, "--cut", "left.relu")["outputs"]) == ["left.relu"]
    assert ok_json("inspect", model, "--cut", "stem")["nodes"] == 2
    ok("optimize", model, "-o", tmp_path / "cut.onnx", "--cut", "logits")
    assert [output.name for output in onnx.load(tmp_path / "cut.onnx").graph.output] == ["logits"]
    refused = call("run", artifact, "--cut", "pooled")
    assert refused.exit_code == 2 and "are settled" in refused.stderr
    refused = call("compile", model, "--cut", "poold")
    assert refused.exit_code == 2 and refused.stderr.count("\n") == 1 and "pooled" in refused.stderr


def test_a_benchmark_cuts_both_sides(tmp_path: Path) -> None:
    found = bench(saved(tmp_path), backend="torch", threads=1, repeats=1, min_seconds=0, outputs=["left.relu"])
    assert found.ratio > 0


# ---- strict


def falling_back() -> onnx.ModelProto:
    """The classifier with two operators that no kernel has."""
    model = classifier(op="Atan")
    model.graph.node[5].op_type = "Atan"
    return model


def test_a_fallback_is_an_error_when_strict(tmp_path: Path) -> None:
    assert len(optgraph.compile(falling_back(), "torch").plan().fallbacks) == 2
    optgraph.compile(classifier(), "torch", strict=True)
    with pytest.raises(ModelError, match=r"2 of \d+ regions have no kernel: '/act/Atan' \(Atan: .*'/left.relu/Relu'"):
        optgraph.compile(falling_back(), "torch", strict=True)
    model = saved(tmp_path, falling_back())
    refused = call("compile", model, "--strict")
    assert refused.exit_code == 2 and "/act/Atan" in refused.stderr and refused.stderr.count("\n") == 1
    assert not model.with_suffix(".optgraph").exists()


def test_the_placement_line(tmp_path: Path) -> None:
    found = ok_json("compile", saved(tmp_path, falling_back()))
    reason = found["fallbacks"][0]["reason"]
    regions = found["fused_nodes"]
    line = f"placement        {regions - 2} of {regions} regions Triton, 2 fallback: Atan ×2 ({reason})"
    assert line in ok("compile", saved(tmp_path, falling_back()))
    found = ok_json("compile", saved(tmp_path))
    assert f"{found['fused_nodes']} of {found['fused_nodes']} regions Triton " in ok("compile", saved(tmp_path))
