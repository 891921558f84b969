"""Arithmetic on each element: against numpy, in ONNX Runtime, and as ONNX has it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from optgraph import ops
from optgraph.base.devices import INTERPRET
from optgraph.ir.graph import Graph
from optgraph.ir.values import IDENTITY, RELU, Act, Shape, Value
from optgraph.onnx.read import read
from optgraph.plan.plans import Plans
from optgraph.run import reference
from optgraph.run.engine import Engine
from optgraph.run.reference import run
from tests.support.definitions import ACT, ACTS, FORMULA, evaluate, per_channel, rand
from tests.support.onnx_checks import IMAGE, exported, imported, model, single, types, weights

# ---- reference, against the definition


@pytest.mark.parametrize("name", ACTS)
def test_activation_reference(name: str) -> None:
    x = np.append(rand(200) * 4, [0.0, -50.0, 50.0])
    (out,) = evaluate(ops.Activation(act=ACT[name]), x)
    np.testing.assert_allclose(out, FORMULA[name](x), rtol=1e-12, atol=1e-15)
    assert ACT[name].apply(torch.tensor(math.nan)).isnan()


def test_affine_reference_of_any_rank() -> None:
    scale, shift = rand(3, seed=1), rand(3, seed=2)
    x = rand(2, 3)
    np.testing.assert_allclose(evaluate(ops.Affine(act=RELU), x, scale, shift)[0], np.maximum(x * scale + shift, 0))
    x = rand(2, 3, 4, 5)
    expected = x * per_channel(scale) + per_channel(shift)
    np.testing.assert_allclose(evaluate(ops.Affine(), x, scale, shift)[0], expected)


@pytest.mark.parametrize(
    ("fn", "function"), [("add", np.add), ("sub", np.subtract), ("mul", np.multiply), ("div", np.divide)]
)
def test_binary_reference(fn: str, function: Callable[..., np.ndarray]) -> None:
    x, y = rand(2, 3, 4, 5), rand(3, 1, 5)
    (out,) = evaluate(ops.Binary(fn=fn, post=ACT["sigmoid"]), x, y)
    np.testing.assert_allclose(out, FORMULA["sigmoid"](function(x, y)), rtol=1e-10)


def test_integer_division_truncates() -> None:
    (out,) = evaluate(ops.Binary(fn="div"), np.array([7, -7, 8]), np.array([2, 2, -3]))
    assert out.dtype == np.int64
    assert out.tolist() == [3, -3, -2]


@pytest.mark.parametrize("computed", [False, True])
def test_before_opset_7_an_axis_aligned_the_operands(computed: bool) -> None:
    nodes = [("Relu", "v", "r", {})] if computed else []
    nodes.append(("Sub", "x r" if computed else "x v", "y", {"axis": 1, "broadcast": 1}))
    v, x = weights(4, 9), weights(2, 4, 9, 7)
    graph = read(model(nodes, {"v": v}, opset=6))
    wanted = x - (np.maximum(v, 0) if computed else v)[..., None]
    np.testing.assert_allclose(reference.run(graph, {"x": x})["y"].numpy(), wanted, rtol=1e-6)


def test_a_clip_of_crossed_bounds_is_read_as_the_upper_one() -> None:
    nodes = [("Clip", "x one zero", "t", {}), ("Add", "t x", "y", {})]
    imported(nodes)
    graph = read(model(nodes, {"one": np.array(1, np.float32), "zero": np.array(0, np.float32)}))
    assert [node.op.act for node in graph.nodes() if isinstance(node.op, ops.Activation)] == [Act("clip", 0.0, 0.0)]


def test_cast_reference() -> None:
    x = rand(2, 3, 4, 5)
    (out,) = evaluate(ops.Cast(to="int32"), x * 10)
    assert out.dtype == np.int32
    np.testing.assert_array_equal(out, np.trunc(x * 10))


# ---- ONNX out, in ONNX Runtime against the reference


EXPORTED_ACTS = {
    **{name: act for name, act in ACT.items() if act},
    "clip_below": Act("clip", -0.3, float("inf")),
    "clip_above": Act("clip", float("-inf"), 0.4),
}


ACT_TYPES = {
    **{name: [name.capitalize()] for name in ("relu", "clip", "sigmoid", "tanh")},
    "clip_below": ["Clip"],
    "clip_above": ["Clip"],
    "leaky_relu": ["LeakyRelu"],
    "silu": ["Sigmoid", "Mul"],
    "hard_sigmoid": ["HardSigmoid"],
    "hard_swish": ["HardSwish"],
    "gelu": ["Mul", "Erf", "Add", "Mul", "Mul"],
    "gelu_tanh": ["Mul", "Mul", "Mul", "Add", "Mul", "Mul", "Tanh", "Add", "Mul"],
    "mish": ["Softplus", "Tanh", "Mul"],
    "threshold": ["ThresholdedRelu"],
    "power": ["Pow"],
    **{name: [name.capitalize()] for name in ("elu", "selu", "celu", "softplus", "softsign", "abs", "neg", "exp")},
    **{name: [name.capitalize()] for name in ("erf", "sin", "cos", "sign", "floor", "ceil", "round")},
}


@pytest.mark.parametrize("name", EXPORTED_ACTS)
def test_activation_export(name: str) -> None:
    assert types(exported(single(ops.Activation(act=EXPORTED_ACTS[name])))) == ACT_TYPES[name]


@pytest.mark.parametrize("shape", [("N", 4), ("N", 4, 5), IMAGE])
def test_affine_writes_only_what_it_does(shape: Shape) -> None:
    scale, shift, one, zero = weights(4), weights(4) + 1, np.ones(4, np.float32), np.zeros(4, np.float32)
    assert types(exported(single(ops.Affine(act=RELU), scale, shift, shape=shape))) == ["Mul", "Add", "Relu"]
    assert types(exported(single(ops.Affine(), scale, zero, shape=shape))) == ["Mul"]
    assert types(exported(single(ops.Affine(), one, shift, shape=shape))) == ["Add"]
    assert types(exported(single(ops.Affine(), one, zero, shape=shape), exact=True)) == ["Identity"]


@pytest.mark.parametrize("shape", [("N", 1, 5, 128), ("N", 1), ("N", 4, 1, 128)])
def test_affine_through_the_kernel(shape: Shape) -> None:
    graph = single(ops.Affine(act=RELU), weights(int(shape[1])), weights(int(shape[1])) + 1, shape=shape)
    feeds = {graph.inputs[0]: torch.randn([2, *map(int, shape[1:])])}
    plans = Plans(graph, "fp32")
    assert not plans.get(2, INTERPRET).fallbacks
    (name, got), *_ = Engine(plans, torch.device("cpu"))(feeds, 2).items()
    torch.testing.assert_close(got, run(graph, feeds)[name])


def test_affine_by_computed_values() -> None:
    graph = Graph()
    x = graph.add_input("x", Value(IMAGE))
    scale, shift = graph.add_input("scale", Value((4,))), graph.add_input("shift", Value((4,)))
    graph.outputs = {"y": graph.add(ops.Affine(), [x, scale, shift]).output}
    assert types(exported(graph)) == ["Reshape", "Mul", "Reshape", "Add"]


@pytest.mark.parametrize("fn", ["add", "sub", "mul", "div"])
def test_binary_export(fn: str) -> None:
    model = exported(single(ops.Binary(fn=fn, post=RELU), weights(4, 1, 8)))
    assert types(model) == [fn.capitalize(), "Relu"]


def test_an_activation_that_does_nothing_keeps_what_it_reads() -> None:
    graph = single(ops.Activation(act=RELU))
    before = graph.outputs["y0"]
    graph.outputs["same"] = graph.add(ops.Activation(act=IDENTITY), [before]).output
    graph.outputs["also"] = graph.add(ops.Activation(act=ACT["tanh"]), [before]).output
    assert types(exported(graph)) == ["Relu", "Identity", "Tanh"]


def test_cast_export() -> None:
    assert types(exported(single(ops.Cast(to="int32")))) == ["Cast"]


# ---- ONNX in, against ONNX Runtime


CASES = {
    "sum_of_three": [("Relu", "x", "r", {}), ("Sum", "x r x", "y", {})],
    "sum_of_one": [("Sum", "x", "y", {})],
    "sub_div": [("Sub", "x c", "d", {}), ("Div", "d scalar", "y", {})],
    "min_max": [("Max", "x zero", "h", {}), ("Min", "one h", "y", {})],
    "clip": [("Clip", "x zero one", "y", {})],
    "clip_one_bound": [
        helper.make_node("Clip", ["x", "", "one"], ["y"]),
    ],
    "leaky": [("LeakyRelu", "x", "y", {"alpha": 0.3})],
    "sigmoid_tanh": [("Sigmoid", "x", "h", {}), ("Tanh", "h", "y", {})],
    "hard": [("HardSigmoid", "x", "h", {"alpha": 0.3}), ("HardSwish", "h", "y", {})],
    "cast_round_trip": [("Cast", "x", "d", {"to": TensorProto.DOUBLE}), ("CastLike", "d x", "y", {})],
}


@pytest.mark.parametrize("name", CASES)
def test_import(name: str) -> None:
    imported(CASES[name])
