"""optimize, calibrate: what they print, write and exit with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from optgraph.onnx.stripped import strip
from tests.support.cli_models import NODES, call, classifier, close, expected, ok, ok_json, saved


def test_optimize(tmp_path: Path, model: Path) -> None:
    output = tmp_path / "small.onnx"
    found = ok_json("optimize", model, "-o", output)
    small = onnx.load(output)
    onnx.checker.check_model(small, full_check=True)
    assert found["nodes"] == NODES and found["optimized_nodes"] == len(small.graph.node) < NODES
    assert not small.functions and {node.domain for node in small.graph.node} == {""}
    x = np.random.default_rng(4).standard_normal((2, 3, 12, 12)).astype(np.float32)
    close(expected(output, x), expected(model, x))
    assert f"{NODES} operators before, {len(small.graph.node)} after" in ok("optimize", model, "-o", output)


def test_optimize_with_functions(tmp_path: Path, model: Path) -> None:
    plain, called = tmp_path / "plain.onnx", tmp_path / "called.onnx"
    calls = (
        ok_json("optimize", model, "-o", plain)["optimized_nodes"]
        - ok_json("optimize", model, "-o", called, "--functions")["optimized_nodes"]
    )
    assert calls == sum(node.domain == "optgraph" for node in onnx.load(called).graph.node) > 0
    x = np.random.default_rng(4).standard_normal((2, 3, 12, 12)).astype(np.float32)
    close(expected(called, x), expected(model, x))


def test_calibrate(tmp_path: Path) -> None:
    stripped = saved(tmp_path, strip(classifier(width=512)), "stripped.onnx")
    result = call("compile", stripped)
    assert result.exit_code == 2 and "'stem.w' was stripped" in result.stderr and "calibrate" in result.stderr
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        ok("calibrate", stripped, tmp_path / f"{name}.onnx", "--seed", seed, "--size", 24)
    a, b, c = ((tmp_path / f"{name}.onnx").read_bytes() for name in "abc")
    assert a == b != c
    ok("verify", tmp_path / "a.onnx")
