"""compile, inspect: what they print, write and exit with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from optgraph.base.errors import ModelError
from tests.support.cli_models import NODES, call, classifier, ok, ok_json, saved
from tests.support.out_of_fp16 import overflowing
from tests.support.pages import facts_in


def test_compile_writes_beside_the_model_and_reports(model: Path) -> None:
    out = ok("compile", model, "--batch", "1,8")
    assert model.with_suffix(".optgraph").is_file()
    for text in (
        "batchnorm",
        f"{NODES}, simplified to",
        "at batch 1, ",
        "at batch 8",
        "placement",
        "on an H100 SXM; not measured",
    ):
        assert text in out


def test_compile_json(tmp_path: Path, model: Path) -> None:
    output = tmp_path / "other.optgraph"
    found = ok_json("compile", model, "-o", output, "--batch", "2,6")
    assert found["output"] == str(output) and output.is_file()
    assert found["nodes"] == NODES
    assert found["fallbacks"] == []
    assert found["arena_bytes_by_batch"]["6"] > 2 * found["arena_bytes_by_batch"]["2"] > 0
    rewrites = {p["name"]: p["rewrites"] for p in found["passes"]}
    assert rewrites["remove_noops"] == rewrites["batchnorm"] == rewrites["merge_siblings"] == 1
    assert found["passes"][-1]["nodes_after"] == found["fused_nodes"] < found["simplified_nodes"] < NODES
    assert all(p["ms"] >= 0 for p in found["passes"])


def test_inspect_json(model: Path) -> None:
    """The stem, the merged siblings, the pool, the matrix and the softmax; the concat costs nothing."""
    found = ok_json("inspect", model)
    assert found["launches"] == 5 == sum(found["launches_by_kernel"].values())
    assert found["nodes"] == NODES
    # 3×12×12 in, 8×12×12 out and in again, 11×12×12 out and in again, 11 out and in, 10 out, in and out.
    assert found["bytes_per_image"]["after"] == 4 * (144 * (3 + 2 * 8 + 2 * 11) + 2 * 11 + 3 * 10)
    assert found["bytes_per_image"]["before"] > 2 * found["bytes_per_image"]["after"]
    # The batchnorm has become a bias of the stem; the siblings gain one each or none.
    assert found["weight_bytes"] >= 4 * (8 * 27 + 8 + 11 * 8 + 110 + 10)
    assert found["arena_bytes"] >= 4 * 144 * (8 + 11)


def test_inspect_counts_fp16_in_half(model: Path) -> None:
    single, half = (ok_json("inspect", model, "--dtype", dtype) for dtype in ("fp32", "fp16"))
    assert half["weight_bytes"] == single["weight_bytes"] / 2
    assert half["bytes_per_image"]["before"] == single["bytes_per_image"]["before"] / 2


def test_inspect_of_an_artifact_is_that_of_its_model(model: Path) -> None:
    ok("compile", model, "--dtype", "fp16", "--batch", "4")
    found = ok_json("inspect", model.with_suffix(".optgraph"))
    of_model = ok_json("inspect", model, "--dtype", "fp16")
    for key in ("arena_bytes", "arena_bytes_by_batch"):
        assert found.pop(key) != of_model.pop(key)
    assert found == of_model


def test_inspect_lists_the_fused_graph(model: Path) -> None:
    out = ok("inspect", model)
    assert "y: N×10 = Softmax[axis=1](x=logits" in out
    assert "MergedPointwise" in out


def test_inspect_cost(model: Path) -> None:
    found = ok_json("inspect", model, "--dtype", "fp16", "--cost", "--batch", "8", "--target", "a100")
    cost = found["cost"]
    assert (cost["target"], cost["batch"], len(cost["launches"])) == ("sm_80", 8, found["launches"])
    assert cost["launches"][0]["kernel"] == "conv2d"
    assert cost["launches"][0]["flops"] == 2 * 8 * 144 * 8 * 27
    assert (
        cost["launches"][0]["read_bytes"] == 8 * 4 * 144 * 3 and cost["launches"][0]["written_bytes"] == 8 * 2 * 144 * 8
    )
    assert "cost" not in ok_json("inspect", model)
    out = ok("inspect", model, "--cost")
    assert "on an H100 SXM at batch 1; not measured" in out and "8×12×12" not in out
    assert "pointwise" in out and "MergedPointwise[" not in out


def test_inspect_cost_of_an_unknown_device(model: Path) -> None:
    result = call("inspect", model, "--cost", "--target", "sm_70")
    assert (result.exit_code, result.stderr) == (
        2,
        "error: no prediction for target 'sm_70': use sm_90, sm_80, sm_89, sm_86\n",
    )


def test_inspect_dot(tmp_path: Path, model: Path) -> None:
    found = ok_json("inspect", model, "--dot", tmp_path / "graph.dot")
    dot = (tmp_path / "graph.dot").read_text()
    assert dot.count(" [label=") == found["fused_nodes"] + 2
    assert '"Softmax[axis=1]\\nN×10"' in dot
    assert dot.count("->") >= found["fused_nodes"] + 1
    assert dot.startswith("digraph {") and dot.endswith("}\n")


def test_a_fallback_is_reported(tmp_path: Path) -> None:
    path = saved(tmp_path, classifier(op="Atan"))
    (fallback,) = ok_json("inspect", path)["fallbacks"]
    assert fallback["op"] == "Atan" and "/act/Atan" in fallback["node"] and fallback["reason"]
    out = ok("compile", path)
    assert f"{fallback['node']} (Atan): {fallback['reason']}" in out


def test_a_fixed_batch_counts_per_image(tmp_path: Path, model: Path) -> None:
    fixed = saved(tmp_path, classifier(shape=(4, 3, 12, 12)), "fixed.onnx")
    assert ok_json("inspect", fixed)["bytes_per_image"] == ok_json("inspect", model)["bytes_per_image"]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the interpreter, where numbers leave float16
def test_regions_kept_in_float32(tmp_path: Path) -> None:
    path, artifact = tmp_path / "model.onnx", tmp_path / "model.optgraph"
    onnx.save(overflowing(), path)
    half = ("--dtype", "fp16", "--backend", "interpret")
    found = json.loads(call("verify", path, *half, "--json").stdout)
    assert not found["ok"] and found["reason"].startswith("output 'y' has NaN or Inf")
    nodes = {name for region in found["out_of_range"] for name in region["onnx_nodes"]}
    assert {"grow", "join"} <= nodes
    shown = call("verify", path, *half).stdout
    assert "leaves fp16" in shown and "over 65504" in shown
    for options in (("--keep-fp32", "auto"), ("--keep-fp32", "grow", "--keep-fp32", "join")):
        found = ok_json("verify", path, *half, *options)
        assert found["ok"] and set(found["kept_fp32"]) >= {"grow", "join"} and not found["out_of_range"]
    found = ok_json("compile", path, "--dtype", "fp16", "--keep-fp32", "auto")
    assert {name for region in found["kept_fp32"] for name in region["onnx_nodes"]} >= {"grow", "join"}
    assert "kept in fp32" in ok("inspect", artifact)
    assert ok_json("verify", artifact, "--backend", "interpret")["kept_fp32"]
    result = call("compile", path, "--dtype", "fp16", "--keep-fp32", "other")
    assert result.exit_code == 2 and "no region stands for an ONNX node of this name" in result.stderr


def test_ranges_on_given_inputs(tmp_path: Path) -> None:
    path, dim = tmp_path / "model.onnx", tmp_path / "dim.npy"
    onnx.save(overflowing(), path)
    np.save(dim, np.full((1, 3, 8, 8), 1e-3, np.float32))
    auto = ("--dtype", "fp16", "--keep-fp32", "auto")
    assert ok_json("compile", path, *auto)["kept_fp32"] != []
    assert ok_json("compile", path, *auto, "--input", dim)["kept_fp32"] == []
    bright = tmp_path / "bright.npy"
    np.save(bright, np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32))
    assert "leaves fp16: " in ok("compile", path, "--dtype", "fp16", "--input", bright)
    assert "leaves fp16" not in ok("compile", path, *auto, "--input", bright)
    assert ok_json("compile", path, "--dtype", "fp16", "--input", dim)["out_of_range"] == []
    assert ok_json("verify", path, *auto, "--backend", "interpret", "--input", dim)["kept_fp32"] == []


def test_ranges_on_a_made_up_image(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that `verify` compares on."""
    path, half = tmp_path / "over.onnx", ("--dtype", "fp16")
    onnx.save(overflowing(), path)
    found = ok_json("compile", path, *half)
    verified = json.loads(call("verify", path, *half, "--backend", "torch", "--json").stdout)
    assert found["out_of_range"] == ok_json("compile", path, *half)["out_of_range"] != []
    assert verified["out_of_range"] == []  # torch computes in float32
    out = ok("compile", path, *half)
    assert out.count("leaves fp16: ") == len(found["out_of_range"])
    assert "range of fp16: these leave it, on a made-up input: --input looks on yours; --keep-fp32 auto keeps" in out
    monkeypatch.setattr("optgraph.report.fp16_range.MOST", 1)
    out = ok("compile", path, *half)
    assert out.count("leaves fp16: ") == 1 and f"{len(found['out_of_range']) - 1} more regions leave it" in out
    assert "range of fp16: no region leaves it, on a made-up input" in ok("compile", model, *half)
    assert "range of fp16: no region leaves it, on a made-up input" in ok("compile", path, *half, "--keep-fp32", "auto")
    for dtype in ("fp32", "bf16"):
        assert "of fp16" not in ok("compile", path, "--dtype", dtype)


def test_ranges_that_are_not_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, x, half = tmp_path / "over.onnx", tmp_path / "x.npy", ("--dtype", "fp16")
    onnx.save(overflowing(), path)
    np.save(x, np.ones((1, 3, 8, 8), np.float32))
    monkeypatch.setattr("optgraph.api.fp16_range.MOST_FLOPS", 1e3)
    assert ok_json("compile", path, *half)["out_of_range"] is None
    assert "range of fp16: not looked for, which takes 0 GFLOP: give --input to have it done" in ok(
        "compile", path, *half
    )
    assert ok_json("compile", path, *half, "--input", x)["out_of_range"] != []
    monkeypatch.undo()

    def refuse(*_: object) -> None:
        raise ModelError("node 'gather': index 7 is out of bounds")

    monkeypatch.setattr("optgraph.api.fp16_range.leaving", refuse)
    out = ok("compile", path, *half)
    assert "not known, for a made-up input will not do: give --input: node 'gather': index 7 is out of bounds" in out


def test_inspect_writes_a_page(tmp_path: Path, model: Path) -> None:
    page = tmp_path / "page.html"
    ok("inspect", model, "--html", page, "--batch", "4", "--target", "a100", "--dtype", "fp16")
    (found,) = facts_in(page.read_text())["compiles"]
    assert (found["batch"], found["device"]) == (4, "A100 SXM 80GB")
    assert [p["name"] for p in found["passes"]][-1] == "place_concat" and len(found["steps"]["steps"]) > 3


def test_inspect_compares_two(tmp_path: Path, model: Path) -> None:
    page, half = tmp_path / "page.html", tmp_path / "half.optgraph"
    ok("compile", model, "-o", half, "--dtype", "fp16")
    ok("inspect", model, "--html", page, "--compare", half, "--dtype", "fp32")
    assert [each["net"]["dtype"] for each in facts_in(page.read_text())["compiles"]] == ["fp32", "fp16"]
    assert "give --html" in call("inspect", model, "--compare", half).stderr
    assert "is the input itself" in call("inspect", model, "--html", half, "--compare", half).stderr


def test_compile_reports_what_leaves_fp16(tmp_path: Path) -> None:
    page, model = tmp_path / "page.html", saved(tmp_path, overflowing())
    found = ok_json("compile", model, "--dtype", "fp16", "--batch", "2,6", "--report", page)
    assert found["report"] == str(page)
    (shown,) = facts_in(page.read_text())["compiles"]
    assert shown["batch"] == 2 and shown["out_of_range"] == found["out_of_range"] != []
    assert any(hint["title"].startswith("Leaves the range") for hint in shown["hints"])


def test_inspect_json_has_the_graph_and_the_schedule(model: Path) -> None:
    found = ok_json("inspect", model, "--batch", "3")
    assert len(found["graph"]["nodes"]) == found["fused_nodes"] and found["graph"]["edges"][0]["from"] is None
    assert found["schedule"]["batch"] == 3 and len(found["schedule"]["launches"]) == found["launches"]
    assert all({"stream", "waits", "onnx_nodes"} <= launch.keys() for launch in found["schedule"]["launches"])
    assert all(buffer["first"] <= buffer["last"] for buffer in found["schedule"]["buffers"])
