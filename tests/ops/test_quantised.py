"""FakeQuantize, and constants that were integers: read as floats, written back as the integers they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import optgraph
from optgraph.ir.graph import Graph
from optgraph.ir.quant import Grid, Quant
from optgraph.ir.text import graph_text
from optgraph.ir.values import Value
from optgraph.onnx.read import read
from optgraph.onnx.sessions import session
from optgraph.onnx.write import to_onnx
from optgraph.ops import FakeQuantize
from optgraph.ops.quantised import on_grids
from optgraph.run import reference
from tests.support.quantised import Sketch


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_the_reference_is_the_definition(dtype: torch.dtype) -> None:
    x = torch.from_numpy(np.random.default_rng(0).normal(0, 3, 4000)).to(dtype)
    x[:3] = torch.tensor([torch.inf, -torch.inf, 0.025])  # beyond both ends, and a tie
    (y,) = FakeQuantize(quant=Quant(0.05, -7)).compute([x])
    steps = np.clip(np.rint(x.double().numpy() / 0.05) - 7, -128, 127)
    exact = torch.from_numpy((steps + 7) * 0.05).to(dtype)
    assert y.dtype == dtype
    # A step where float32 has a tie and float64 none.
    wrong = (y.double() - exact.double()).abs() > 2 * torch.finfo(dtype).eps * exact.double().abs()
    assert int(wrong.sum()) <= 1 and len(y.unique()) > 150
    assert FakeQuantize(quant=Quant(0.05)).compute([torch.tensor([torch.nan])])[0].isnan().all()


def test_halves_are_divided_in_float32() -> None:
    """In float16, 2047 / 8 * 8 would lie on the next step."""
    scale = float(np.float16(0.0007))
    x = (torch.arange(-128, 128) * scale).half()
    (y,) = FakeQuantize(quant=Quant(scale)).compute([x])
    assert torch.equal(y, (torch.arange(-128, 128).float() * scale).half())


# ---- constants


def weights_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """What each DequantizeLinear of a constant reads, by what it gives."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {
        node.output[0]: arrays[node.input[0]]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in arrays
    }


def round_trip(model: onnx.ModelProto) -> tuple[Graph, dict[str, np.ndarray]]:
    """The simplified graph, and the integers that it is written with: ONNX Runtime and the reference answer as the
    original does."""
    graph = optgraph.simplify(read(model))
    written = to_onnx(graph)
    onnx.checker.check_model(written, full_check=True)
    feeds = {"x": np.random.default_rng(1).normal(size=(2, 8, 12, 12)).astype(np.float32)}
    names = [output.name for output in model.graph.output]
    wanted = session(model.SerializeToString(), optimize=False).run(names, feeds)
    again = session(written.SerializeToString(), optimize=False).run(names, feeds)
    ours = reference.run(graph, feeds)
    for name, want, got in zip(names, wanted, again, strict=True):
        assert np.linalg.norm(got - want) <= 1e-6 * np.linalg.norm(want)
        assert np.linalg.norm(ours[name].numpy() - want) <= 1e-6 * np.linalg.norm(want)
    return graph, weights_of(written)


CHANNELS = np.linspace(0.01, 0.2, 6)


@pytest.mark.parametrize("opset", [10, 13, 19, 21])
@pytest.mark.parametrize(
    ("dtype", "scale", "zero"),
    [
        (np.int8, 0.05, 0),
        (np.int8, [0.05], [-3]),
        (np.uint8, 0.05, 128),
        (np.uint8, 0.05, 17),
        (np.int8, CHANNELS, np.zeros(6)),
        (np.uint8, CHANNELS, np.arange(100, 106)),
    ],
)
def test_a_weight_comes_back_as_the_integers_it_was(opset: int, dtype: Any, scale: Any, zero: Any) -> None:
    per_channel = np.ndim(scale) == 1 and len(scale) > 1
    if per_channel and opset < 13:
        pytest.skip("one scale for all until opset 13")
    s = Sketch(opset=opset)
    limits = np.iinfo(dtype)
    integers = s.rng.integers(limits.min, limits.max + 1, (6, 8, 3, 3))
    axis = {"axis": 0} if opset >= 13 and per_channel else {}
    w = s.dequantize(s.weight(integers, dtype), scale, zero, dtype, **axis)
    b = s.node("DequantizeLinear", s.weight(s.rng.integers(-9000, 9000, 6), np.int32), s.weight(0.0005))
    y = s.node("Conv", "x", w, b, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    graph, found = round_trip(s.model(y))
    (conv,) = graph.nodes()
    assert on_grids(graph) and graph.grids[conv.get("w")].dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found[conv.get("w")], integers)
    assert found[conv.get("w")].dtype == dtype and found[conv.get("b")].dtype == np.int32
    assert f"w={conv.get('w')} {np.dtype(dtype)}" in graph_text(graph)


def test_float_weights_that_are_quantised_in_the_file() -> None:
    """As NNCF leaves them."""
    s = Sketch()
    w = s.rng.normal(size=(6, 8, 3, 3))
    scales = np.abs(w).max((1, 2, 3)) / 127
    y = s.node("Conv", "x", s.qdq(s.weight(w), scales, np.zeros(6), axis=0), kernel_shape=[3, 3])
    _, found = round_trip(s.model(y))
    (integers,) = found.values()
    np.testing.assert_array_equal(
        integers, np.rint(w.astype(np.float32) / scales.astype(np.float32)[:, None, None, None])
    )


@pytest.mark.parametrize("op_type", ["Gemm", "MatMul"])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_a_dense_layer_turns_its_grid_with_its_weight(op_type: str, axis: int) -> None:
    s = Sketch()
    integers = s.rng.integers(-127, 128, (8, 5))
    scales = s.rng.uniform(0.01, 0.1, integers.shape[axis])
    w = s.dequantize(s.weight(integers, np.int8), scales, np.zeros(len(scales)), axis=axis)
    x = s.node("Flatten", s.node("GlobalAveragePool", "x"))
    graph, found = round_trip(s.model(s.node(op_type, x, w)))
    gemm = graph.nodes()[-1]
    assert gemm.op.kind == "Gemm" and graph.grids[gemm.get("w")].axis == (1 if axis == 0 else 0)
    np.testing.assert_array_equal(found[gemm.get("w")], integers.T)


def test_a_transposed_convolution_has_its_channels_on_axis_1() -> None:
    s = Sketch()
    integers = s.rng.integers(-127, 128, (8, 5, 2, 2))
    w = s.dequantize(s.weight(integers, np.int8), s.rng.uniform(0.01, 0.1, 5), np.zeros(5), axis=1)
    graph, found = round_trip(s.model(s.node("ConvTranspose", "x", w, kernel_shape=[2, 2], strides=[2, 2])))
    (name,) = found
    assert graph.grids[name].axis == 1
    np.testing.assert_array_equal(found[name], integers)


def test_a_weight_that_two_layers_share_is_written_once() -> None:
    s = Sketch()
    w = s.dequantize(s.weight(s.rng.integers(-127, 128, (8, 8, 1, 1)), np.int8))
    y = s.node("Conv", s.node("Relu", s.node("Conv", "x", w)), w)
    assert len(round_trip(s.model(y))[1]) == 1


def test_equal_weights_of_other_integers_stay_apart() -> None:
    """ONNX Runtime takes the integers of a bias, and the scale of input and weight for that of the bias."""
    s = Sketch()
    w = s.dequantize(s.weight(s.rng.integers(-127, 128, (8, 8, 1, 1)), np.int8))
    first = s.node("DequantizeLinear", s.weight(np.arange(1, 9) * 2, np.int32), s.weight(0.25))
    second = s.node("DequantizeLinear", s.weight(np.arange(1, 9), np.int32), s.weight(0.5))
    y = s.node("Conv", s.node("Relu", s.node("Conv", "x", w, first)), w, second)
    _, found = round_trip(s.model(y))
    assert sorted(int(array[0]) for array in found.values() if array.dtype == np.int32) == [1, 2]


def test_a_weight_that_is_changed_is_a_float() -> None:
    """A scale of each input channel leaves it on no grid of ours."""
    s = Sketch()
    w = s.dequantize(s.weight(s.rng.integers(-127, 128, (6, 8, 1, 1)), np.int8))
    x = s.node("Mul", "x", s.weight(s.rng.uniform(0.5, 2, (8, 1, 1))))
    graph, found = round_trip(s.model(s.node("Conv", x, w)))
    assert [node.op.kind for node in graph.nodes()] == ["Conv"] and not found and not graph.grids


def test_a_weight_times_a_factor_a_channel_is_the_same_integers() -> None:
    """As where a batchnorm comes after the convolution, of training with fake quantisation. One factor is negative, one
    zero."""
    s = Sketch()
    integers = s.rng.integers(-127, 128, (6, 8, 1, 1))
    w = s.dequantize(s.weight(integers, np.int8), CHANNELS, np.zeros(6), axis=0)
    factors = np.array([0.3, 1.0, -2.0, 0.0, 5.0, 1.7])
    vectors = [s.weight(v) for v in (factors, s.rng.normal(size=6), s.rng.normal(size=6), np.ones(6))]
    y = s.node("BatchNormalization", s.node("Conv", "x", w), *vectors, epsilon=0.0)
    graph, found = round_trip(s.model(y))
    assert [node.op.kind for node in graph.nodes()] == ["Conv"]
    (kept,) = found.values()
    np.testing.assert_array_equal(kept, integers * np.sign(factors).astype(int)[:, None, None, None])


@pytest.mark.parametrize("dtype", [np.int16, np.uint16])
def test_other_integers_are_floats_from_then_on(dtype: Any) -> None:
    s = Sketch(opset=21)
    w = s.dequantize(s.weight(s.rng.integers(0, 3000, (6, 8, 1, 1)), dtype), 0.0005, 0, dtype)
    graph, found = round_trip(s.model(s.node("Conv", "x", w)))
    assert not found and not graph.grids


def test_blocks_are_floats_from_then_on() -> None:
    s = Sketch(opset=21)
    integers, scales = s.rng.integers(-127, 128, (6, 8, 1, 1)), s.rng.uniform(0.01, 0.1, (6, 2, 1, 1))
    zeros = np.zeros_like(scales)
    w = s.dequantize(s.weight(integers, np.int8), scales, zeros, axis=1, block_size=4)
    graph, found = round_trip(s.model(s.node("Conv", "x", w)))
    assert not found and not graph.grids


# ---- grids


def test_integers_of_a_grid() -> None:
    rng = np.random.default_rng(0)
    grid = Grid("uint8", tuple(map(float, rng.uniform(1e-6, 5, 7).astype(np.float32))), tuple(range(7)), 1)
    integers = rng.integers(0, 256, (3, 7, 2)).astype(np.uint8)
    for dtype in (np.float32, np.float64):
        real = ((integers - grid.spread(grid.zero, 3)) * grid.spread(grid.scale, 3)).astype(dtype)
        found = grid.integers(real)
        assert found is not None and found.dtype == np.uint8
        np.testing.assert_array_equal(found, integers)
    turned = grid.permuted((1, 2, 0)).integers(real.transpose(1, 2, 0))
    assert turned is not None
    np.testing.assert_array_equal(turned, integers.transpose(1, 2, 0))
    off = real.copy()
    off[0, 0, 0] += grid.scale[0] / 3
    assert grid.integers(off) is None
    beyond = real.copy()
    beyond[0, 0, 0] = 256 * grid.scale[0]
    assert grid.integers(beyond) is None


def test_a_large_bias_has_fewer_bits_than_its_integers() -> None:
    integers = np.random.default_rng(0).integers(-(2**31), 2**31, 4000).astype(np.int32)
    real = integers.astype(np.float32) * np.float32(3.7e-7)
    found = Grid("int32", (float(np.float32(3.7e-7)),), (0,)).integers(real)
    assert found is not None
    np.testing.assert_allclose(found.astype(np.float64), integers, rtol=2e-7)


def test_a_graph_without_grids() -> None:
    graph = Graph()
    graph.add_input("x", Value(("N", 4)))
    assert not on_grids(graph)
    graph.add(FakeQuantize(quant=Quant(0.5)), ["x"])
    assert on_grids(graph)
