"""Random networks agree with ONNX Runtime at every stage; what they once found stays fixed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from onnx import TensorProto, helper, numpy_helper

import optgraph
from benchmarks.random_models import MismatchError, check, measure
from optgraph import ops
from optgraph.compare import oracle
from optgraph.ir.graph import Graph
from optgraph.ir.values import Act
from optgraph.onnx import write
from optgraph.onnx.read import read
from optgraph.ops import Activation
from optgraph.passes import pipeline
from optgraph.passes.rewrite import Outcome
from optgraph.plan.lowering import lower
from optgraph.run import reference
from tests.support.number_types import of_type
from tests.support.random_arithmetic import ARITHMETIC
from tests.support.random_models import models

RUN = settings(database=None, derandomize=True, suppress_health_check=list(HealthCheck))


@settings(RUN, max_examples=60)
@given(models())
def test_every_stage_agrees_with_onnxruntime(model: onnx.ModelProto) -> None:
    assert set(check(model).errors) == {"imported", "simplified", "fused"}


@settings(RUN, max_examples=5)
@given(models())
def test_the_kernels_agree_with_onnxruntime(model: onnx.ModelProto) -> None:
    assert "interpret" in check(model, interpret=True).errors


@settings(RUN, max_examples=8)
@given(models(ARITHMETIC))
def test_arithmetic_and_reductions_have_kernels(model: onnx.ModelProto) -> None:
    assert "interpret" in check(model, interpret=True).errors
    graph = read(model)
    for passes in (pipeline.SIMPLIFY, pipeline.FUSE):
        pipeline.apply(graph, passes)
    assert not lower(graph, 2).fallbacks


@settings(RUN, max_examples=12)
@given(models())
def test_doubles_are_computed_in_float64(model: onnx.ModelProto) -> None:
    shape = [d.dim_value or 2 for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(1).standard_normal(shape)
    twin = of_type(model, TensorProto.DOUBLE)
    wanted = reference.run(read(twin), {"x": x}, torch.float64)
    for name, single in reference.run(read(model), {"x": x}).items():
        assert oracle.distance(single, wanted[name])[0] <= 1e-5
    for backend in ("torch", "interpret"):
        found = optgraph.compile(twin, backend)({"x": x})
        results = found if isinstance(found, dict) else {next(iter(wanted)): found}
        for name, want in wanted.items():
            assert str(results[name].dtype) == "float64"
            # Passes take float32's 1/6 for a sixth.
            assert oracle.distance(np.asarray(results[name]), want.numpy())[0] <= 6e-8


def one_node(
    op_type: str, *constants: np.ndarray, shape: tuple[int | str, ...] = (2, 4, 9, 8), **attrs
) -> onnx.ModelProto:
    """A model of one operator on 'x' and constants, with its opset, 17 unless given."""
    names = [f"w{i}" for i in range(len(constants))]
    opset = attrs.pop("opset", 17)
    return helper.make_model(
        helper.make_graph(
            [helper.make_node(op_type, ["x", *names], ["y"], **attrs)],
            "one",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_empty_tensor_value_info("y")],
            [numpy_helper.from_array(array, name) for array, name in zip(constants, names, strict=True)],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=9,
    )


def test_a_wrong_pass_is_found(monkeypatch) -> None:
    def spoil(graph: Graph) -> Outcome:
        for node in graph.nodes():
            if isinstance(node.op, Activation):
                graph.update(node, replace(node.op, act=Act("sigmoid")))
        return Outcome(1)

    monkeypatch.setattr(pipeline, "FUSE", (pipeline.Pass("spoil", "spoil", spoil),))
    with pytest.raises(MismatchError, match="fused is off by"):
        check(one_node("Relu"))


def test_the_same_seed_gives_the_same_models_and_failures_are_counted(monkeypatch) -> None:
    rows, figures = measure(8, 3)
    again, _ = measure(8, 3)
    assert rows == again and figures["models"] == 8 and figures["failures"] == []
    assert [row["models"] for row in rows] == [8, 8, 8, 1]
    assert figures["median_input_sensitivity"] > 0.05
    monkeypatch.setattr("optgraph.compare.oracle.distance", lambda *_: (1.0, 1.0))
    _, figures = measure(3, 3)
    assert len(figures["failures"]) == 3 and "imported is off by 1.0e+00" in figures["failures"][0]


# ---- what was found


@pytest.mark.parametrize("pads", [(2, 0, 0, 2), (0, 2, 2, 0), (1, 1, 1, 1)])
def test_what_ceil_mode_adds_to_a_counted_average_does_not_count(pads: tuple[int, ...]) -> None:
    """ONNX's reference evaluator, which ran these, divides some windows by too much."""
    model = one_node("AveragePool", kernel_shape=[3, 3], strides=[3, 2], pads=pads, ceil_mode=1, count_include_pad=1)
    graph = read(model)
    assert [n.op.kind for n in graph.nodes()] == ["Pad", "Pool"]
    check(model, interpret=True)


def test_a_pool_padded_by_a_whole_kernel_is_exported() -> None:
    """ceil_mode can make a padding of the kernel's size, which ONNX Runtime refuses to load."""
    window = {"kernel_shape": [3, 3], "dilations": [2, 3], "strides": [2, 1], "pads": [1, 2, 2, 1]}
    model = one_node("MaxPool", shape=(2, 4, 5, 7), ceil_mode=1, **window)
    graph = read(model)
    (pool,) = graph.nodes()
    assert isinstance(pool.op, ops.Pool) and pool.op.pads == (1, 2, 3, 1)
    assert [n.op_type for n in write.to_onnx(graph).graph.node] == ["Pad", "MaxPool"]
    check(model, interpret=True)


@pytest.mark.parametrize("opset, axis", [(11, 1), (20, -1)])
def test_an_operator_is_run_as_its_opset_means_it(opset: int, axis: int) -> None:
    """Every opset was once taken for 17: LogSoftmax means another thing before 13."""
    check(one_node("LogSoftmax", opset=opset, axis=axis), interpret=True)


@pytest.mark.parametrize("batch", ["N", 2])
def test_an_upsampled_image_keeps_its_open_batch(batch: str | int) -> None:
    """ONNX's shape inference multiplies no symbol, so that Resize once lost the batch."""
    scales = np.array([1, 1, 2, 2], np.float32)
    model = one_node("Resize", scales, shape=(batch, 3, 5, 6), mode="nearest")
    model.graph.node[0].input.insert(1, "")
    graph = read(model)
    assert graph.shape(graph.outputs["y"]) == (batch, 3, 10, 12)
    check(model, interpret=True)
