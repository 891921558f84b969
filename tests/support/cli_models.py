"""A small ONNX classifier with one of everything, and how tests of the command line call it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner, Result

from optgraph.cli.main import app

NODES = 13  # of the classifier


def classifier(
    shape: Sequence[int | str] = ("n", 3, 12, 12),
    op: str = "Relu",
    width: int = 8,
    weights: dict[str, np.ndarray] | None = None,
) -> onnx.ModelProto:
    """Convolution to `width` channels, batchnorm and activation `op`, two 1×1 siblings, concat, global pool and a
    softmax of 10 classes.

    `weights` replaces some of: stem.w, gamma, beta, mean, var, left.w, right.w, fc.w, fc.b.
    """
    rng = np.random.default_rng(0)

    def normal(*dims: int, fan_in: int = 1) -> np.ndarray:
        return (rng.standard_normal(dims) / fan_in**0.5).astype(np.float32)

    arrays = {
        "stem.w": normal(width, 3, 3, 3, fan_in=27),
        "gamma": 1 + 0.2 * normal(width),
        "beta": normal(width),
        "mean": normal(width),
        "var": 1 + 0.2 * abs(normal(width)),
        "left.w": normal(6, width, 1, 1, fan_in=width),
        "right.w": normal(5, width, 1, 1, fan_in=width),
        "fc.w": 3 * normal(11, 10, fan_in=11),
        "fc.b": normal(10),
    }
    arrays |= weights or {}
    nodes = [
        ("Identity", "x", "same", {}),
        ("Conv", "same stem.w", "stem", {"pads": [1, 1, 1, 1]}),
        ("BatchNormalization", "stem gamma beta mean var", "bn", {}),
        (op, "bn", "act", {}),
        ("Conv", "act left.w", "left", {}),
        ("Relu", "left", "left.relu", {}),
        ("Conv", "act right.w", "right", {}),
        ("Relu", "right", "right.relu", {}),
        ("Concat", "left.relu right.relu", "cat", {"axis": 1}),
        ("GlobalAveragePool", "cat", "pooled", {}),
        ("Flatten", "pooled", "flat", {}),
        ("Gemm", "flat fc.w fc.b", "logits", {}),
        ("Softmax", "logits", "y", {"axis": 1}),
    ]
    assert len(nodes) == NODES
    graph = helper.make_graph(
        [helper.make_node(t, i.split(), [o], name=f"/{o}/{t}", **attrs) for t, i, o, attrs in nodes],
        "classifier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a.astype(np.float32), name) for name, a in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def saved(directory: Path, model: onnx.ModelProto | None = None, name: str = "model.onnx") -> Path:
    """`model`, or the classifier, as a file."""
    path = directory / name
    onnx.save(model or classifier(), path)
    return path


def call(*arguments: object) -> Result:
    """Runs the command line in this process."""
    return CliRunner().invoke(app, [str(a) for a in arguments])


def ok(*arguments: object) -> str:
    """Its stdout, when it must succeed."""
    result = call(*arguments)
    assert result.exit_code == 0, result.stderr or result.exception
    return result.stdout


def ok_json(*arguments: object) -> Any:
    """The same with --json: all of stdout is one JSON value."""
    return json.loads(ok(*arguments, "--json"))


def expected(model: Path, x: np.ndarray) -> np.ndarray:
    """What ONNX Runtime gives for a model of one input and one output."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def close(got: np.ndarray, reference: np.ndarray) -> None:
    assert got.shape == reference.shape
    assert np.linalg.norm(got - reference) <= 1e-5 * np.linalg.norm(reference)
