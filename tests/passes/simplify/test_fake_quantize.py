"""QuantizeLinear and DequantizeLinear in pairs: where they become one operator, where not, and the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import optgraph
from optgraph.ir.graph import Graph
from optgraph.ir.quant import Quant
from optgraph.onnx.read import read
from optgraph.onnx.sessions import session
from optgraph.onnx.write import to_onnx
from optgraph.ops import FakeQuantize
from optgraph.passes.simplify import common_subexpressions, fake_quantize
from optgraph.run import reference
from tests.support.networks import kinds, of_kind
from tests.support.quantised import Sketch


def applied(model: onnx.ModelProto) -> tuple[Graph, fake_quantize.Outcome]:
    """The graph after the pass, which answers as ONNX Runtime does before and once it is written back: bit by bit, for
    the models here only quantise and move."""
    graph = read(model)
    outcome = fake_quantize.run(graph)
    graph.verify()
    element = model.graph.input[0].type.tensor_type.elem_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(element)
    x = np.random.default_rng(3).normal(0, 3, (2, 8, 12, 12)).astype(dtype)
    names = [output.name for output in model.graph.output]
    wanted = session(model.SerializeToString(), optimize=False).run(names, {"x": x})
    written = to_onnx(graph)
    onnx.checker.check_model(written, full_check=True)
    again = session(written.SerializeToString(), optimize=False).run(names, {"x": x})
    ours = reference.run(graph, {"x": x})
    for name, want, got in zip(names, wanted, again, strict=True):
        assert want.size and len(np.unique(want)) > 8, "it hardly depends on the input"
        np.testing.assert_array_equal(want, got)
        if dtype == np.float32:  # in which the reference computes
            np.testing.assert_array_equal(want, ours[name].numpy())
    return graph, outcome


@pytest.mark.parametrize("opset", [10, 13, 17, 19, 21, 23])
@pytest.mark.parametrize(("dtype", "zero", "grid"), [(np.int8, -5, -5), (np.uint8, 0, -128), (np.uint8, 131, 3)])
def test_a_pair_becomes_one(opset: int, dtype: Any, zero: int, grid: int) -> None:
    s = Sketch(opset=opset)
    graph, outcome = applied(s.model(s.qdq("x", 0.05, zero, dtype)))
    (node,) = graph.nodes()
    assert outcome.rewrites == 1
    assert node.op == FakeQuantize(quant=Quant(float(np.float32(0.05)), grid), unsigned=dtype == np.uint8)
    assert node.origin == ("dequantizelinear1", "quantizelinear0")


def test_scales_of_one_element_and_no_zero_point() -> None:
    s = Sketch()
    q = s.node("QuantizeLinear", "x", s.weight([0.1]))
    graph, outcome = applied(s.model(s.node("DequantizeLinear", q, s.weight([0.1]))))
    assert outcome.rewrites == 1 and of_kind(graph, "FakeQuantize")[0].op.quant.zero == -128
    s = Sketch()
    graph, outcome = applied(s.model(s.qdq("x", [0.1], [3])))
    assert outcome.rewrites == 1


def test_halves() -> None:
    s = Sketch(opset=19)
    scale = s.weight(0.05, np.float16)
    q = s.node("QuantizeLinear", "x", scale, s.weight(7, np.int8))
    y = s.node("DequantizeLinear", q, scale, s.weight(7, np.int8))
    graph, outcome = applied(s.model(y, dtype=TensorProto.FLOAT16))
    assert outcome.rewrites == 1 and graph.values[graph.outputs[y]].dtype == "float16"


def test_one_quantize_with_several_dequantize() -> None:
    s = Sketch()
    q = s.quantize("x", 0.05, 4)
    ys = [s.dequantize(q, 0.05, 4) for _ in range(3)]
    graph, outcome = applied(s.model(*ys))
    assert outcome.rewrites == 3 and kinds(graph) == {"FakeQuantize": 3}
    common_subexpressions.run(graph)
    assert len(graph) == 1


def test_integers_that_are_read_stay() -> None:
    s = Sketch()
    q = s.quantize("x", 0.05, 4)
    model = s.model(s.dequantize(q, 0.05, 4), q, types={q: TensorProto.INT8})
    graph, outcome = applied(model)
    assert outcome.rewrites == 1 and kinds(graph) == {"QuantizeLinear": 1, "FakeQuantize": 1}


def test_chains_of_one_grid_collapse() -> None:
    s = Sketch()
    graph, outcome = applied(s.model(s.qdq(s.qdq(s.qdq("x", 0.05, 4), 0.05, 4), 0.05, 4)))
    assert outcome.rewrites == 5 and len(graph) == 1
    s = Sketch()
    graph, outcome = applied(s.model(s.qdq(s.qdq("x", 0.05, 4), 0.06, 4)))
    assert outcome.refusals[-1].reason == "the two grids differ" and len(graph) == 2


def test_both_sides_of_a_reshape_and_a_transpose_stay() -> None:
    """ONNX Runtime wants the grid on both sides of what it computes in integers."""
    s = Sketch()
    y = s.qdq(s.node("Transpose", s.qdq("x", 0.05, 4), perm=[0, 2, 3, 1]), 0.05, 4)
    graph, _ = applied(s.model(s.qdq(s.node("Flatten", y), 0.05, 4)))
    assert kinds(graph) == {"FakeQuantize": 3, "Transpose": 1, "Reshape": 1}


def _refusal(model: onnx.ModelProto) -> str:
    graph, outcome = applied(model)
    assert outcome.rewrites == 0 and not of_kind(graph, "FakeQuantize")
    assert outcome.refusals, "nothing was refused"
    return outcome.refusals[0].reason


def test_scales_that_differ() -> None:
    s = Sketch()
    assert (
        _refusal(s.model(s.dequantize(s.quantize("x", 0.05), 0.06))) == "the two have different scales or zero points"
    )
    s = Sketch()
    assert "different" in _refusal(s.model(s.dequantize(s.quantize("x", 0.05, 1), 0.05, 2)))


@pytest.mark.parametrize("scale", [0.0, -0.05, np.inf, 1e-40])
def test_a_scale_that_is_none(scale: float) -> None:
    s = Sketch()
    outcome = fake_quantize.run(read(s.model(s.qdq("x", scale))))
    assert not outcome.rewrites and outcome.refusals[0].reason.startswith("its scale is zero, negative")


def test_a_scale_that_is_computed() -> None:
    s = Sketch()
    scale = s.node("Div", s.node("ReduceMax", s.node("Abs", "x"), keepdims=0), s.weight(127.0))
    q = s.node("QuantizeLinear", "x", scale, s.weight(0, np.int8))
    assert _refusal(s.model(s.node("DequantizeLinear", q, scale, s.weight(0, np.int8)))) == (
        "its scale or zero point is computed"
    )


def test_a_scale_a_channel() -> None:
    s = Sketch()
    scales, zeros = np.linspace(0.02, 0.2, 8), np.arange(8)
    assert "for each channel" in _refusal(s.model(s.qdq("x", scales, zeros, axis=1)))


def test_other_integers() -> None:
    s = Sketch(opset=21)
    assert _refusal(s.model(s.qdq("x", 0.01, 0, np.int16))) == "its integers are of type int16"


def test_blocks_stay() -> None:
    s = Sketch(opset=21)
    scales = s.rng.uniform(0.02, 0.2, (1, 4, 12, 12))
    s.input = [1, 8, 12, 12]
    q = s.node("QuantizeLinear", "x", s.weight(scales), s.weight(np.zeros_like(scales), np.int8), axis=1, block_size=2)
    y = s.node("DequantizeLinear", q, s.weight(scales), s.weight(np.zeros_like(scales), np.int8), axis=1, block_size=2)
    graph = read(s.model(y))
    assert fake_quantize.run(graph).refusals[0].reason == "it has a scale for each channel or block"


def test_a_division_in_another_type() -> None:
    s = Sketch(opset=23)
    q = s.quantize("x", 0.05, precision=TensorProto.FLOAT16)
    graph = read(s.model(s.dequantize(q, 0.05)))
    assert fake_quantize.run(graph).refusals[0].reason == "it rounds in a type of its own"


def test_a_lone_quantize_or_dequantize_stays() -> None:
    s = Sketch()
    q = s.quantize("x", 0.05, 4)
    graph = optgraph.simplify(read(s.model(q, types={q: TensorProto.INT8})))
    assert kinds(graph) == {"QuantizeLinear": 1}
