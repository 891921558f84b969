"""What counts as agreement for a random model, and what is kept of a run; with models of our own, without NNSmith."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from benchmarks import nnsmith
from benchmarks.agreement import Theirs

HALF, SINGLE, DOUBLE = TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE


def chain(*steps: tuple[str, dict], dtype: int = SINGLE, result: int = 0) -> onnx.ModelProto:
    """A model of one operator after the other on 'x' of 40 numbers; the last gives 'y', of type `result`."""
    names = ["x", *(f"t{i}" for i in range(len(steps) - 1)), "y"]
    nodes = [helper.make_node(op, [names[i]], [names[i + 1]], **attrs) for i, (op, attrs) in enumerate(steps)]
    inputs = [helper.make_tensor_value_info("x", dtype, [40])]
    graph = helper.make_graph(nodes, "chain", inputs, [helper.make_tensor_value_info("y", result or dtype, [40])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def judged(model: onnx.ModelProto, x: np.ndarray, ours: np.ndarray) -> str:
    (found,) = Theirs(model, {"x": x}).judge({"y": ours})
    return found.verdict


@pytest.mark.parametrize("dtype, off", [(np.float16, 3e-3), (np.float32, 5e-6), (np.float64, 5e-11)])
def test_an_output_is_held_to_the_bound_of_its_numbers(dtype: type, off: float) -> None:
    x = np.random.default_rng(0).uniform(1, 2, 40).astype(dtype)
    model = chain(("Sqrt", {}), dtype=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    exact = np.sqrt(x.astype(np.float64))
    assert judged(model, x, exact * (1 + off)) == "agrees"
    assert judged(model, x, exact * (1 + 4 * off)) == "differs"


def test_the_coarsest_numbers_on_the_way_count() -> None:
    x = np.random.default_rng(0).uniform(1, 2, 40)
    through_half = chain(("Cast", {"to": HALF}), ("Cast", {"to": DOUBLE}), dtype=DOUBLE)
    assert judged(through_half, x, x) == "agrees"
    assert judged(chain(("Identity", {}), dtype=DOUBLE), x, x.astype(np.float16)) == "differs"


def test_what_rounding_can_do_is_no_fault_and_more_is() -> None:
    x = np.random.default_rng(0).uniform(1, 2, 40).astype(np.float32)
    x[0] = np.pi / 2  # a pole of Tan
    other = x.copy()
    other[0] = np.nextafter(x[0], np.float32(1))
    model = chain(("Tan", {}))
    assert judged(model, x, np.tan(other.astype(np.float64))) == "rounding"
    assert judged(model, x[1:].repeat(2)[:40], np.tan(1.001 * x[1:].repeat(2)[:40])) == "differs"
    tie = np.full(40, 2.5, np.float32) + np.float32(1e-7)
    assert judged(chain(("Round", {})), tie, np.full(40, 3)) == "rounding"
    assert judged(chain(("Round", {})), tie, np.full(40, 4)) == "differs"


def test_doubles_that_onnxruntime_lacks_are_held_to_float32() -> None:
    x = np.random.default_rng(0).uniform(1, 2, 40)
    x[0] = np.pi / 2 - 1e-5
    model = chain(("Tan", {}), dtype=DOUBLE)
    assert Theirs(model, {"x": x}).values["y"].dtype == np.float32
    assert judged(model, x, np.tan(x)) == "rounding"
    assert judged(model, x[1:].repeat(2)[:40], np.tan(x[1:].repeat(2)[:40]) * (1 + 5e-6)) == "agrees"
    assert judged(model, x[1:].repeat(2)[:40], np.tan(x[1:].repeat(2)[:40]) * (1 + 5e-4)) == "differs"


def test_a_half_among_such_doubles_stays_one() -> None:
    x = np.random.default_rng(0).uniform(1, 1.5, 40)
    model = chain(("Tan", {}), ("Cast", {"to": HALF}), dtype=DOUBLE, result=HALF)
    assert judged(model, x, np.tan(x) * (1 + 3e-3)) == "agrees"
    assert judged(model, x, np.tan(x) * (1 + 3e-2)) == "differs"


def test_integers_are_exact_unless_rounding_or_nothing_decides_them() -> None:
    model = chain(("Sqrt", {}), ("Cast", {"to": TensorProto.INT32}), result=TensorProto.INT32)
    x = np.full(40, 4.5, np.float32)
    assert judged(model, x, np.full(40, 2)) == "agrees"
    assert judged(model, x, np.full(40, 3)) == "differs"
    assert judged(model, x * 1e30, np.full(40, 3)) == "undefined"
    assert judged(model, x, np.full(41, 2)) == "differs"


def test_a_model_that_onnxruntime_cannot_run_has_the_reason() -> None:
    model = chain(("Reciprocal", {}), dtype=TensorProto.INT32)
    assert "Type Error" in nnsmith.compared(model, 0)["none"]
    model = chain(("Min", {}), dtype=TensorProto.INT16)
    model.graph.node[0].input.append("x")
    assert nnsmith.compared(model, 0) == {"none": "ONNX Runtime has no Min"}


def test_each_backend_has_its_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_really, model = nnsmith.optgraph.compile, chain(("Sqrt", {}))

    def broken(model: onnx.ModelProto, backend: str) -> Callable[[dict], np.ndarray]:
        return lambda feeds: 2 * compile_really(model, backend)(feeds)

    row = nnsmith.compared(model, 0)
    assert [row[backend]["outcome"] for backend in nnsmith.BACKENDS] == ["agrees"] * 3
    monkeypatch.setattr(nnsmith.optgraph, "compile", broken)
    row = nnsmith.compared(model, 0)
    assert [row[backend]["outcome"] for backend in nnsmith.BACKENDS] == ["differs"] * 3
    rows, figures = nnsmith.summary([{"seed": 7} | row, {"seed": 8, "none": "reason"}])
    assert [(r["graph"], r["backend"]) for r in rows if r["differs"]] == [("single", b) for b in nnsmith.BACKENDS]
    assert figures["nothing_to_compare"] == {"reason": 1}
    assert [(found["seed"], found["outcome"]) for found in figures["not_within_bounds"]] == [(7, "differs")] * 3


def test_what_was_done_is_not_done_again(tmp_path: Path) -> None:
    made = []

    def make(seed: int) -> onnx.ModelProto:
        made.append(seed)
        if seed == 1:
            raise AttributeError
        return chain(("Sqrt", {}))

    kept = tmp_path / "kept.jsonl"
    first = list(nnsmith.outcomes(make, range(2), kept))
    assert "NNSmith makes none" in first[1]["none"]
    assert list(nnsmith.outcomes(make, range(3), kept))[:2] == first and made == [0, 1, 2]
    assert [json.loads(line)["seed"] for line in kept.read_text().splitlines()] == [0, 1, 2]
