"""Bottleneck: against its definition, and as the chain that ONNX has for it."""

from __future__ import annotations

import numpy as np
import pytest

from optgraph import ops
from optgraph.base.errors import ModelError
from optgraph.ir.graph import Graph
from optgraph.ir.values import RELU, Act, Value
from tests.support.definitions import ACT, FORMULA, WINDOWS, conv, evaluate, per_channel, rand
from tests.support.onnx_checks import IMAGE, exported, single, types, weights


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("order", ["alone", "rest first", "rest last"])
def test_reference(window: str, order: str) -> None:
    x, conv_w, conv_b = rand(2, 4, 7, 8), rand(5, 4, 3, 2), rand(5)
    scale, shift = rand(4, seed=1), rand(4, seed=2) + 1
    y = np.maximum(x * per_channel(scale) + per_channel(shift), 0)
    z = FORMULA["silu"](conv(y, conv_w, WINDOWS[window]) + per_channel(conv_b))
    rest = None if order == "alone" else rand(2, 3, *z.shape[2:])
    if rest is not None:
        z = np.concatenate((rest, z) if order == "rest first" else (z, rest), 1)
    w, b = rand(6, z.shape[1], 1, 1), rand(6)
    y = FORMULA["hard_swish"](np.einsum("ncij,oc->noij", z, w[:, :, 0, 0]) + per_channel(b))
    residual = rand(*y.shape)
    acts: dict[str, Act] = {"pre_act": RELU, "mid": ACT["silu"], "act": ACT["hard_swish"], "post": RELU}
    op = ops.Bottleneck(kernel=(3, 2), **WINDOWS[window], **acts, rest_first=order == "rest first")
    (out,) = evaluate(op, x, conv_w, conv_b, w, b, residual, scale, shift, rest)
    np.testing.assert_allclose(out, np.maximum(y + residual, 0), atol=1e-12)


@pytest.mark.parametrize(
    "shapes, message",
    [
        ([(5, 3, 3, 3), (6, 5, 1, 1)], "do not fit 4 channels"),
        ([(5, 4, 3, 3), (6, 7, 1, 1)], "for 5 channels"),
        ([(5, 4, 3, 3), (6, 7, 1, 1), (1, 2, 7, 7)], "cannot join"),
        ([(5, 4, 3, 3), (6, 6, 1, 1), (1, 2, 5, 5)], "for 7 channels"),
    ],
)
def test_it_refuses_what_does_not_fit(shapes: list[tuple[int, ...]], message: str) -> None:
    conv_w, w, *rest = (Value(shape) for shape in shapes)
    inputs = [Value((1, 4, 7, 7)), conv_w, None, w, None, None, None, None, *rest]
    with pytest.raises(ModelError, match=message):
        ops.Bottleneck(kernel=(3, 3)).infer(inputs)


@pytest.mark.parametrize("rest_first", [False, True])
def test_export(rest_first: bool) -> None:
    acts: dict[str, Act] = {"pre_act": RELU, "mid": ACT["clip"], "act": ACT["tanh"], "post": RELU}
    op = ops.Bottleneck(kernel=(3, 3), stride=(2, 1), pads=(1, 0, 0, 1), rest_first=rest_first, **acts)
    graph = Graph()
    images = {"x": IMAGE, "residual": ("N", 6, 4, 7), "rest": ("N", 3, 4, 7)}
    shapes = {
        "conv_w": (5, 4, 3, 3),
        "conv_b": (5,),
        "w": (6, 8, 1, 1),
        "b": (6,),
        "pre_scale": (4,),
        "pre_shift": (4,),
    }
    inputs = {name: graph.add_input(name, Value(shape)) for name, shape in images.items()}
    inputs |= {name: graph.add_constant(weights(*shape) + 0.5) for name, shape in shapes.items()}
    graph.outputs = {"y": graph.add(op, [inputs.get(slot, "") for slot in op.slots]).output}
    chain = ["Mul", "Add", "Relu", "Conv", "Clip", "Concat", "Conv", "Tanh", "Add", "Relu"]
    assert types(exported(graph)) == chain
    plain = single(ops.Bottleneck(kernel=(3, 3)), weights(5, 4, 3, 3), None, weights(6, 5, 1, 1))
    assert types(exported(plain)) == ["Conv", "Conv"]
