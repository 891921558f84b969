"""Limits on what a model may ask for: each refusal names the option that raises it, and the option does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import optgraph
from optgraph.base.budget import Budget
from optgraph.base.errors import InputError, ModelError
from tests.support.cli_models import NODES, call, classifier, ok, saved

COMMANDS = ("compile", "run", "verify", "inspect", "optimize", "check")


def arguments(command: str, model: Path) -> list[object]:
    return [command, model, *(["-o", model.with_suffix(".out.onnx")] if command == "optimize" else [])]


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_refused_says_how_it_passes(tmp_path: Path, command: str) -> None:
    model = saved(tmp_path)
    for limit in ("nodes=12", "arena_bytes=1000"):
        name, _, number = limit.partition("=")
        for _ in range(2):  # one tensor is judged before all that live at once are
            refused = call(*arguments(command, model), "--budget", f"{name}={number}")
            if refused.exit_code == 0:
                break
            assert refused.exit_code == 2 and refused.stderr.count("\n") == 1
            *_, number = refused.stderr.strip().partition(f"--budget {name}=")
        assert int(number) > int(limit.partition("=")[2])
        ok(*arguments(command, model), "--budget", f"{name}={number}")


def test_nodes_are_counted_with_functions_inlined() -> None:
    model = classifier()
    relu = [helper.make_node("Relu", ["a"], ["c"]), helper.make_node("Relu", ["c"], ["b"])]
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("local", "Twice", ["a"], ["b"], relu, opsets))
    model.opset_import.append(helper.make_opsetid("local", 1))
    node = next(n for n in model.graph.node if n.op_type == "Identity")
    node.CopyFrom(helper.make_node("Twice", ["x"], ["same"], domain="local"))
    with pytest.raises(ModelError, match=f"has {NODES + 1} nodes, over the budget of {NODES}"):
        optgraph.compile(model, budget=Budget(nodes=NODES))
    with pytest.raises(ModelError, match=r"functions call each other 1 deep.*--budget nesting=1"):
        optgraph.compile(model, budget=Budget(nesting=0))
    assert optgraph.compile(model, "torch", budget=Budget(nodes=NODES + 1, nesting=1)).source.nodes == NODES + 1


def with_zeros(size: int) -> onnx.ModelProto:
    """The classifier, whose input gets the sum of `size` computed zeros added."""
    model = classifier()
    model.graph.initializer.append(numpy_helper.from_array(np.array([size]), "size"))
    zeros = helper.make_node("ConstantOfShape", ["size"], ["zeros"], name="zeros")
    most = helper.make_node("ReduceMax", ["zeros"], ["most"], keepdims=0)
    rest = [n for n in model.graph.node if n.op_type != "Identity"]
    add = helper.make_node("Add", ["x", "most"], ["same"])
    graph = helper.make_graph([zeros, most, add, *rest], "g", model.graph.input, model.graph.output)
    graph.initializer.extend(model.graph.initializer)
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=8)


def test_folding_stops_at_its_budget() -> None:
    model, size = with_zeros(250_000), 1_000_000 - 8
    folded = optgraph.compile(model, "torch", budget=Budget(folded_bytes=size))
    kept = optgraph.compile(model, "torch", budget=Budget(folded_bytes=size - 1))
    assert len(kept.simplified) > len(folded.simplified)
    (refusal,) = (r for report in kept.reports for r in report.refusals if r.node == "zeros")
    assert "--budget folded_bytes" in refusal.reason
    x = np.random.default_rng(0).standard_normal((1, 3, 12, 12)).astype(np.float32)
    np.testing.assert_allclose(folded(x), kept(x), rtol=1e-6)


def test_a_plan_is_checked_for_its_batch(tmp_path: Path) -> None:
    net = optgraph.compile(classifier(), "torch")
    net.save(tmp_path / "m.optgraph")
    one, eight = net.plan(1).arena_bytes, net.plan(8).arena_bytes
    assert one < eight
    net = optgraph.load(tmp_path / "m.optgraph", "torch", budget=Budget(arena_bytes=eight - 1))
    net.plan(1)
    with pytest.raises(ModelError, match=f"batch 8 takes {eight} bytes.*--budget arena_bytes={eight}"):
        net.plan(8)
    with pytest.raises(ModelError, match="takes 6336 bytes"):
        optgraph.load(tmp_path / "m.optgraph", "torch", budget=Budget(arena_bytes=6335))


@pytest.mark.parametrize(
    "argument", ["nodes", "nodes=", "nodes=-1", "nodes=many", "wings=2", "nodes=1e9", "nodes=²", ""]
)
def test_an_argument_that_is_none(argument: str) -> None:
    with pytest.raises(InputError, match="one of nodes, folded_bytes, arena_bytes, nesting"):
        Budget.parse([argument])
    assert Budget.parse(["nodes=7", "nesting=3"]) == Budget(nodes=7, nesting=3)
