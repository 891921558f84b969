"""The torch reference against definitions written out in numpy, and the executor's own promises."""

from __future__ import annotations

import gc
import math
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from onnx import helper

from optgraph import ops
from optgraph.base.errors import InputError, ModelError
from optgraph.ir.graph import Graph
from optgraph.ir.op import Op
from optgraph.ir.values import RELU, Act, Pads, Pair, Segment, Shape, Value
from optgraph.run.reference import Executor, apply_act, compute, run, stream

ACTS: dict[str, tuple[Act, Callable[[np.ndarray], np.ndarray]]] = {
    "identity": (Act(), lambda x: x),
    "relu": (Act("relu"), lambda x: np.maximum(x, 0)),
    "clip": (Act("clip", -0.5, 0.8), lambda x: np.minimum(np.maximum(x, -0.5), 0.8)),
    "leaky_relu": (Act("leaky_relu", 0.2), lambda x: np.where(x >= 0, x, 0.2 * x)),
    "sigmoid": (Act("sigmoid"), lambda x: 1 / (1 + np.exp(-x))),
    "silu": (Act("silu"), lambda x: x / (1 + np.exp(-x))),
    "tanh": (Act("tanh"), np.tanh),
    "hard_sigmoid": (Act("hard_sigmoid", 0.3, 0.4), lambda x: np.clip(0.3 * x + 0.4, 0, 1)),
    "hard_swish": (Act("hard_swish"), lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
}
ACT = {name: act for name, (act, _) in ACTS.items()}
FORMULA = {name: formula for name, (_, formula) in ACTS.items()}


def rand(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def evaluate(op: Op, *inputs: np.ndarray | None) -> list[np.ndarray]:
    tensors = [None if array is None else torch.from_numpy(array.copy()) for array in inputs]
    return [t.numpy() for t in compute(op, tensors)]


def per_channel(vector: np.ndarray) -> np.ndarray:
    return vector[:, None, None]


def windows(
    x: np.ndarray, kernel: Pair, stride: Pair, pads: Pads, dilation: Pair
) -> Iterator[tuple[int, int, list[tuple[int, int, np.ndarray | None]]]]:
    """(i, j, taps) of every output pixel; a tap is (row, column, pixel [N, C]), the pixel None outside the image."""
    h, w = x.shape[2:]
    rows = (h + pads[0] + pads[2] - (kernel[0] - 1) * dilation[0] - 1) // stride[0] + 1
    columns = (w + pads[1] + pads[3] - (kernel[1] - 1) * dilation[1] - 1) // stride[1] + 1
    for i in range(rows):
        for j in range(columns):
            taps = []
            for r in range(kernel[0]):
                for s in range(kernel[1]):
                    p, q = i * stride[0] + r * dilation[0] - pads[0], j * stride[1] + s * dilation[1] - pads[1]
                    taps.append((r, s, x[:, :, p, q] if 0 <= p < h and 0 <= q < w else None))
            yield i, j, taps


def assemble(pixels: dict[tuple[int, int], np.ndarray]) -> np.ndarray:
    """[N, C, H, W] from its pixels."""
    h, w = max(i for i, _ in pixels) + 1, max(j for _, j in pixels) + 1
    return np.stack([np.stack([pixels[i, j] for j in range(w)], -1) for i in range(h)], -2)


def conv(x: np.ndarray, w: np.ndarray, window: dict[str, tuple[int, ...]], groups: int = 1) -> np.ndarray:
    """Convolution as its definition: a sum over taps, group by group."""
    cin, cout = w.shape[1], w.shape[0] // groups
    pixels = {}
    for i, j, taps in windows(x, w.shape[2:], window["stride"], window["pads"], window["dilation"]):
        out = np.zeros((x.shape[0], w.shape[0]))
        for r, s, pixel in taps:
            for g in range(groups if pixel is not None else 0):
                outs, ins = slice(g * cout, (g + 1) * cout), slice(g * cin, (g + 1) * cin)
                out[:, outs] += pixel[:, ins] @ w[outs, :, r, s].T
        pixels[i, j] = out
    return assemble(pixels)


def pool(x: np.ndarray, op: ops.Pool) -> np.ndarray:
    pixels = {}
    for i, j, taps in windows(x, op.kernel, op.stride, op.pads, op.dilation):
        inside = [pixel for *_, pixel in taps if pixel is not None]
        if op.mode == "max":
            pixels[i, j] = np.max(inside, axis=0)
        else:
            pixels[i, j] = np.sum(inside, axis=0) / (len(taps) if op.count_include_pad else len(inside))
    return assemble(pixels)


# ---- operators


@pytest.mark.parametrize("name", ACTS)
def test_activation(name: str) -> None:
    x = np.append(rand(200) * 4, [0.0, -50.0, 50.0])
    (out,) = evaluate(ops.Activation(act=ACT[name]), x)
    np.testing.assert_allclose(out, FORMULA[name](x), rtol=1e-12, atol=1e-15)
    assert apply_act(torch.tensor(math.nan), ACT[name]).isnan()


WINDOWS = {
    "plain": {"stride": (1, 1), "pads": (0, 0, 0, 0), "dilation": (1, 1)},
    "symmetric": {"stride": (2, 1), "pads": (1, 2, 1, 2), "dilation": (1, 1)},
    "asymmetric": {"stride": (2, 2), "pads": (0, 1, 1, 2), "dilation": (1, 1)},
    "dilated": {"stride": (1, 2), "pads": (2, 1, 1, 2), "dilation": (2, 3)},
}


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_conv_with_everything(window: str, groups: int) -> None:
    """Prologue, bias, activation, residual and its activation; zeros are padded after the prologue."""
    x, w, b = rand(2, 4, 7, 8), rand(8, 4 // groups, 3, 2), rand(8)
    scale, shift = rand(4, seed=1), rand(4, seed=2) + 1
    y = FORMULA["sigmoid"](x * per_channel(scale) + per_channel(shift))
    y = FORMULA["leaky_relu"](conv(y, w, WINDOWS[window], groups) + per_channel(b))
    residual = rand(*y.shape)
    op = ops.Conv(
        kernel=(3, 2),
        groups=groups,
        **WINDOWS[window],
        pre_act=ACT["sigmoid"],
        act=ACT["leaky_relu"],
        post=ACT["clip"],
    )
    (out,) = evaluate(op, x, w, b, residual, scale, shift)
    np.testing.assert_allclose(out, FORMULA["clip"](y + residual), atol=1e-12)


def test_conv_alone() -> None:
    x, w = rand(1, 3, 5, 5), rand(2, 3, 3, 3)
    (out,) = evaluate(ops.Conv(kernel=(3, 3)), x, w)
    np.testing.assert_allclose(out, conv(x, w, WINDOWS["plain"]), atol=1e-12)


def test_conv_with_a_shift_and_no_scale() -> None:
    x, w, shift = rand(1, 3, 5, 5), rand(2, 3, 3, 3), rand(3)
    (out,) = evaluate(ops.Conv(kernel=(3, 3), pads=(1, 1, 1, 1)), x, w, None, None, None, shift)
    expected = conv(x + per_channel(shift), w, {**WINDOWS["plain"], "pads": (1, 1, 1, 1)})
    np.testing.assert_allclose(out, expected, atol=1e-12)


def test_merged_pointwise() -> None:
    x, scale, shift = rand(2, 4, 5, 6), rand(4, seed=1), rand(4, seed=2)
    w1, b1, w2 = rand(3, 4, 1, 1), rand(3), rand(5, 4, 1, 1)
    segments = (Segment(3, ACT["tanh"]), Segment(5, RELU))
    op = ops.MergedPointwise(segments=segments, stride=(2, 2), pre_act=RELU)
    first, second = evaluate(op, x, scale, shift, w1, b1, w2, None)
    pre = np.maximum(x * per_channel(scale) + per_channel(shift), 0)[:, :, ::2, ::2]
    y1 = np.einsum("ncij,oc->noij", pre, w1[:, :, 0, 0]) + per_channel(b1)
    y2 = np.einsum("ncij,oc->noij", pre, w2[:, :, 0, 0])
    np.testing.assert_allclose(first, np.tanh(y1), atol=1e-12)
    np.testing.assert_allclose(second, np.maximum(y2, 0), atol=1e-12)


@pytest.mark.parametrize("window", WINDOWS)
def test_separable(window: str) -> None:
    x, dw, dw_b, w, b = rand(2, 4, 7, 8), rand(4, 1, 3, 2), rand(4), rand(6, 4, 1, 1), rand(6)
    scale, shift = rand(4, seed=1), rand(4, seed=2) + 1
    y = np.maximum(x * per_channel(scale) + per_channel(shift), 0)
    y = FORMULA["silu"](conv(y, dw, WINDOWS[window], groups=4) + per_channel(dw_b))
    y = FORMULA["hard_swish"](np.einsum("ncij,oc->noij", y, w[:, :, 0, 0]) + per_channel(b))
    residual = rand(*y.shape)
    op = ops.Separable(
        kernel=(3, 2), **WINDOWS[window], pre_act=RELU, mid=ACT["silu"], act=ACT["hard_swish"], post=RELU
    )
    (out,) = evaluate(op, x, dw, dw_b, w, b, residual, scale, shift)
    np.testing.assert_allclose(out, np.maximum(y + residual, 0), atol=1e-12)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("order", ["alone", "rest first", "rest last"])
def test_bottleneck(window: str, order: str) -> None:
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
def test_bottleneck_refuses_what_does_not_fit(shapes: list[tuple[int, ...]], message: str) -> None:
    conv_w, w, *rest = (Value(shape) for shape in shapes)
    inputs = [Value((1, 4, 7, 7)), conv_w, None, w, None, None, None, None, *rest]
    with pytest.raises(ModelError, match=message):
        ops.Bottleneck(kernel=(3, 3)).infer(inputs)


POOL_WINDOWS = {
    **WINDOWS,
    "symmetric": {"stride": (2, 1), "pads": (1, 1, 1, 1), "dilation": (1, 1)},
    "dilated_symmetric": {"stride": (1, 1), "pads": (1, 1, 1, 1), "dilation": (2, 3)},
    # More than half of the window, which torch's pools refuse.
    "wide": {"stride": (1, 1), "pads": (2, 1, 2, 1), "dilation": (1, 1)},
}


@pytest.mark.parametrize("window", POOL_WINDOWS)
@pytest.mark.parametrize("mode", ["max", "average", "average_with_pads"])
def test_pool_with_everything(window: str, mode: str) -> None:
    op = ops.Pool(
        kernel=(3, 2),
        **POOL_WINDOWS[window],
        mode=mode.split("_")[0],
        count_include_pad=mode == "average_with_pads",
        pre_act=Act("hard_sigmoid", 1.0, -3.0),  # mostly zero, so that padding with zeros would show in a max
        act=ACT["tanh"],
        post=RELU,
    )
    x, b = rand(2, 3, 7, 8) * 3, rand(3)
    y = np.tanh(pool(np.clip(x - 3, 0, 1), op) + per_channel(b))
    residual = rand(*y.shape)
    (out,) = evaluate(op, x, b, residual)
    np.testing.assert_allclose(out, np.maximum(y + residual, 0), atol=1e-12)


@pytest.mark.parametrize("window", POOL_WINDOWS)
def test_max_pool_of_negatives_ignores_padding(window: str) -> None:
    op = ops.Pool(kernel=(3, 2), **POOL_WINDOWS[window], mode="max")
    x = -1 - rand(1, 2, 7, 8) ** 2
    np.testing.assert_array_equal(evaluate(op, x)[0], pool(x, op))


@pytest.mark.parametrize("window", POOL_WINDOWS)
def test_pooled_pointwise(window: str) -> None:
    x, w, b = rand(2, 4, 7, 8) - 3, rand(6, 4, 1, 1), rand(6)
    window_of = ops.Pool(kernel=(3, 2), **POOL_WINDOWS[window], mode="max")
    p = pool(FORMULA["silu"](x), window_of)
    y = FORMULA["hard_swish"](np.einsum("ncij,oc->noij", p, w[:, :, 0, 0]) + per_channel(b))
    residual = rand(*y.shape)
    acts: dict[str, Act] = {"pre_act": ACT["silu"], "act": ACT["hard_swish"], "post": RELU}
    (out,) = evaluate(ops.PooledPointwise(kernel=(3, 2), **POOL_WINDOWS[window], **acts), x, w, b, residual)
    np.testing.assert_allclose(out, np.maximum(y + residual, 0), atol=1e-12)


@pytest.mark.parametrize("shape", [(6, 4), (6, 5, 1, 1), (6, 4, 3, 1)])
def test_pooled_pointwise_refuses_what_does_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="for 4 channels"):
        ops.PooledPointwise(kernel=(3, 3)).infer([Value((1, 4, 7, 7)), Value(shape)])


@pytest.mark.parametrize(("mode", "function"), [("max", np.max), ("average", np.mean)])
def test_global_pool(mode: str, function: Callable[..., np.ndarray]) -> None:
    x = rand(2, 3, 5, 6)
    (out,) = evaluate(ops.GlobalPool(mode=mode, act=RELU), x)
    np.testing.assert_allclose(out, np.maximum(function(x, axis=(2, 3), keepdims=True), 0), atol=1e-12)


def test_affine_of_any_rank() -> None:
    scale, shift = rand(3, seed=1), rand(3, seed=2)
    x = rand(2, 3)
    np.testing.assert_allclose(evaluate(ops.Affine(act=RELU), x, scale, shift)[0], np.maximum(x * scale + shift, 0))
    x = rand(2, 3, 4, 5)
    expected = x * per_channel(scale) + per_channel(shift)
    np.testing.assert_allclose(evaluate(ops.Affine(), x, scale, shift)[0], expected)


def test_batch_norm() -> None:
    x, scale, b, mean, var = rand(2, 3, 4, 5), rand(3), rand(3, seed=1), rand(3, seed=2), rand(3, seed=3) ** 2
    (out,) = evaluate(ops.BatchNorm(epsilon=0.01), x, scale, b, mean, var)
    expected = (x - per_channel(mean)) / np.sqrt(per_channel(var) + 0.01) * per_channel(scale) + per_channel(b)
    np.testing.assert_allclose(out, expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("fn", "function"), [("add", np.add), ("sub", np.subtract), ("mul", np.multiply), ("div", np.divide)]
)
def test_binary(fn: str, function: Callable[..., np.ndarray]) -> None:
    x, y = rand(2, 3, 4, 5), rand(3, 1, 5)
    (out,) = evaluate(ops.Binary(fn=fn, post=ACT["sigmoid"]), x, y)
    np.testing.assert_allclose(out, FORMULA["sigmoid"](function(x, y)), rtol=1e-10)


def test_integer_division_truncates() -> None:
    (out,) = evaluate(ops.Binary(fn="div"), np.array([7, -7, 8]), np.array([2, 2, -3]))
    assert out.dtype == np.int64
    assert out.tolist() == [3, -3, -2]


def test_gemm_and_matmul() -> None:
    x, w, b = rand(3, 4), rand(5, 4), rand(5)
    np.testing.assert_allclose(evaluate(ops.Gemm(act=RELU), x, w, b)[0], np.maximum(x @ w.T + b, 0), atol=1e-12)
    np.testing.assert_allclose(evaluate(ops.Gemm(), x, w)[0], x @ w.T, atol=1e-12)
    x, y = rand(2, 3, 4), rand(4, 5)
    np.testing.assert_allclose(evaluate(ops.MatMul(), x, y)[0], x @ y, atol=1e-12)


def test_concat_and_split() -> None:
    x = rand(2, 6, 3)
    pieces = evaluate(ops.Split(axis=1, sizes=(1, 3, 2)), x)
    assert [p.shape for p in pieces] == [(2, 1, 3), (2, 3, 3), (2, 2, 3)]
    np.testing.assert_array_equal(pieces[1], x[:, 1:4])
    (joined,) = evaluate(ops.Concat(axis=1, in_place=(True, False, True)), *pieces)
    np.testing.assert_array_equal(joined, x)


INT_MAX, INT_MIN = 2**63 - 1, -(2**63)


@pytest.mark.parametrize(
    ("start", "end", "step", "expected"),
    [
        (1, 4, 1, slice(1, 4)),
        (-3, INT_MAX, 1, slice(4, 7)),
        (0, -1, 2, slice(0, 6, 2)),
        (-100, 100, 3, slice(None, None, 3)),
        (-1, INT_MIN, -1, slice(None, None, -1)),
        (5, 1, -2, slice(5, 1, -2)),
    ],
)
def test_slice(start: int, end: int, step: int, expected: slice) -> None:
    x = rand(2, 7, 4)
    (out,) = evaluate(ops.Slice(starts=(start, 1), ends=(end, 3), axes=(1, 2), steps=(step, 1)), x)
    np.testing.assert_array_equal(out, x[:, expected, 1:3])


def test_transpose_softmax_pad_cast() -> None:
    x = rand(2, 3, 4, 5)
    np.testing.assert_array_equal(evaluate(ops.Transpose(perm=(0, 2, 3, 1)), x)[0], np.moveaxis(x, 1, -1))
    exp = np.exp(x)
    np.testing.assert_allclose(evaluate(ops.Softmax(axis=1), x)[0], exp / exp.sum(1, keepdims=True), rtol=1e-12)
    (out,) = evaluate(ops.Pad(pads=(0, 1, 2, -1, 0, 0, 3, 0), value=7.0), x)
    expected = np.pad(x[..., 1:], ((0, 0), (1, 0), (2, 3), (0, 0)), constant_values=7.0)
    np.testing.assert_array_equal(out, expected)
    (out,) = evaluate(ops.Cast(to="int32"), x * 10)
    assert out.dtype == np.int32
    np.testing.assert_array_equal(out, np.trunc(x * 10))
    np.testing.assert_array_equal(evaluate(ops.Identity(), x)[0], x)


@pytest.mark.parametrize("mode", ["mean", "max", "min", "sum"])
@pytest.mark.parametrize(("axes", "keepdims"), [((1,), True), ((2, 3), False), ((), True)])
def test_reduce(mode: str, axes: tuple[int, ...], keepdims: bool) -> None:
    x = rand(2, 3, 4, 5)
    (out,) = evaluate(ops.Reduce(mode=mode, axes=axes, keepdims=keepdims), x)
    np.testing.assert_allclose(out, getattr(np, mode)(x, axis=axes, keepdims=keepdims), atol=1e-12)


@pytest.mark.parametrize("size", [1, 3, 4, 9])
def test_lrn(size: int) -> None:
    x = rand(2, 6, 3, 3)
    (out,) = evaluate(ops.LRN(size=size, alpha=0.3, beta=0.6, bias=1.5), x)
    for c in range(6):
        near = x[:, max(0, c - (size - 1) // 2) : c + math.ceil((size - 1) / 2) + 1]
        expected = x[:, c] / (1.5 + 0.3 / size * (near**2).sum(1)) ** 0.6
        np.testing.assert_allclose(out[:, c], expected, rtol=1e-12)


# ---- the executor


def chain(length: int = 3) -> tuple[Graph, list[str]]:
    """x -> sigmoid -> sigmoid -> ...; the values in order."""
    graph = Graph()
    values = [graph.add_input("x", Value(("N", 2)))]
    for _ in range(length):
        values.append(graph.add(ops.Activation(act=ACT["sigmoid"]), [values[-1]]).output)
    graph.outputs = {"y": values[-1]}
    return graph, values


def test_outputs_by_public_name_and_kept_values() -> None:
    graph, values = chain()
    x = rand(3, 2)
    found = run(graph, {"x": x}, torch.float64, keep={values[1]})
    assert set(found) == {"y", values[1]}
    once = FORMULA["sigmoid"](x)
    np.testing.assert_allclose(found[values[1]].numpy(), once)
    np.testing.assert_allclose(found["y"].numpy(), FORMULA["sigmoid"](FORMULA["sigmoid"](once)))


def test_values_are_freed_after_their_last_use() -> None:
    graph, _ = chain(5)
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0
    for _, outputs in stream(graph, {"x": rand(1, 2)}):
        alive.append(weakref.ref(outputs[0]))
        del outputs
        gc.collect()
        most = max(most, sum(r() is not None for r in alive))
    assert len(alive) == 5
    assert most <= 2


def test_unused_outputs_are_freed_and_reused_ones_stay() -> None:
    graph = Graph()
    x = graph.add_input("x", Value(("N", 4)))
    left, right = graph.add(ops.Split(axis=1, sizes=(2, 2)), [x]).outputs
    first = graph.add(ops.Activation(act=RELU), [left]).output
    graph.outputs = {"y": graph.add(ops.Binary(fn="sub"), [first, left]).output, "left": left}
    data = rand(2, 4)
    found = run(graph, {"x": data}, torch.float64)
    np.testing.assert_allclose(found["y"].numpy(), np.maximum(data[:, :2], 0) - data[:, :2])
    np.testing.assert_array_equal(found["left"].numpy(), data[:, :2])
    assert right not in found


def test_stream_is_in_topological_order() -> None:
    graph, values = chain()
    seen = [(node.output, outputs[0].dtype) for node, outputs in stream(graph, {"x": rand(1, 2)}, torch.float64)]
    assert seen == [(value, torch.float64) for value in values[1:]]


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, r"input 'x' is missing: it expects float32 \[N, 2\]"),
        ({"x": np.zeros((1, 3))}, r"input 'x' has shape \[1, 3\]: it expects float32 \[N, 2\]"),
        ({"x": np.zeros(2)}, r"has shape \[2\]"),
        ({"x": np.zeros((1, 2)), "z": np.zeros(1)}, r"no input 'z': its inputs are 'x' float32 \[N, 2\]"),
    ],
)
def test_feeds_that_do_not_fit(feeds: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        stream(chain()[0], feeds)


def test_the_batch_is_the_same_in_all_inputs() -> None:
    graph = Graph()
    x, y = graph.add_input("x", Value(("N", 2))), graph.add_input("y", Value(("N", 1)))
    graph.outputs = {"z": graph.add(ops.Binary(fn="add"), [x, y]).output}
    assert run(graph, {"x": rand(3, 2), "y": rand(3, 1)})["z"].shape == (3, 2)
    with pytest.raises(InputError, match=r"input 'y' has shape \[1, 1\].*N = 3"):
        run(graph, {"x": rand(3, 2), "y": rand(1, 1)})


def test_a_float_is_no_index() -> None:
    graph = Graph()
    i = graph.add_input("i", Value((2,), "int64"))
    graph.outputs = {"y": graph.add(ops.Cast(to="float32"), [i]).output}
    assert run(graph, {"i": np.array([1, 2], np.uint8)})["y"].tolist() == [1.0, 2.0]
    with pytest.raises(InputError, match=r"input 'i' is of dtype float64: it expects int64 \[2\]"):
        run(graph, {"i": np.array([1.0, 2.0])})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_float_is_of_the_dtype_asked_for(dtype: torch.dtype) -> None:
    """Whatever the model says: half inputs, casts between floats, casts from integers."""
    graph = Graph()
    x = graph.add_input("x", Value(("N", 2), "float16"))
    up = graph.add(ops.Cast(to="float32"), [x]).output
    counts = graph.add(ops.Cast(to="int64"), [up]).output
    back = graph.add(ops.Cast(to="float16"), [counts]).output
    graph.outputs = {"up": up, "counts": counts, "back": back}
    found = run(graph, {"x": torch.tensor([[1.1, 2.2]], dtype=torch.float64)}, dtype)
    assert [found[name].dtype for name in ("up", "counts", "back")] == [dtype, torch.int64, dtype]
    assert found["up"].tolist() == torch.tensor([[1.1, 2.2]], dtype=dtype).tolist()


def test_constants_stay_as_they_are() -> None:
    """Read-only, reversed and bfloat16 arrays are read; a caller who writes on an output changes no constant."""
    graph = Graph()
    x = graph.add_input("x", Value(("N", 3)))
    shift = graph.add_constant(np.arange(3, dtype=np.float32)[::-1])
    half = graph.add_constant(np.array([0.5], np.float32).astype(helper.tensor_dtype_to_np_dtype(16)))
    moved = graph.add(ops.Binary(fn="add"), [x, shift]).output
    graph.outputs = {"y": graph.add(ops.Binary(fn="mul"), [moved, half]).output, "shift": shift}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        executor = Executor(graph)
        found = executor({"x": np.ones((1, 3), np.float32)})
    assert found["y"].tolist() == [[1.5, 1.0, 0.5]]
    found["shift"].zero_()
    assert executor({"x": np.ones((1, 3), np.float32)})["shift"].tolist() == [2.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (("N", 3, 4, 5), ("N", -1), (2, 60)),
        (("N", 3, 4, 5), (-1, 60), (2, 60)),
        (("N", 3, 4), ("N", 4, 3), (2, 4, 3)),
        ((4, "N", 3), (-1, "N"), (12, 2)),
        ((6, 4), (3, -1), (3, 8)),
    ],
)
def test_reshape_of_a_symbolic_batch(source: Shape, target: Shape, expected: tuple[int, ...]) -> None:
    graph = Graph()
    x = graph.add_input("x", Value(source))
    graph.outputs = {"y": graph.add(ops.Reshape(shape=target), [x]).output}
    data = rand(*(2 if d == "N" else int(d) for d in source))
    out = run(graph, {"x": data}, torch.float64)["y"].numpy()
    np.testing.assert_array_equal(out, data.reshape(expected))


def test_reshape_without_a_graph_takes_the_leading_batch() -> None:
    (out,) = evaluate(ops.Reshape(shape=("N", -1)), rand(2, 3, 4))
    assert out.shape == (2, 12)


@dataclass(frozen=True, kw_only=True)
class Double(Op):
    def compute(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        assert inputs[0] is not None
        return (inputs[0].float() * 2,)  # float32, whatever the run is in


@dataclass(frozen=True, kw_only=True)
class Nothing(Op):
    pass


def single(op: Op, name: str) -> Graph:
    graph = Graph()
    x = graph.add_input("x", Value(("N", 4)))
    graph.outputs = {"y": graph.add(op, [x], name=name).output}
    return graph


def test_an_operator_of_ones_own() -> None:
    out = run(single(Double(), "mine"), {"x": np.ones((1, 4))}, torch.float64)["y"]
    assert out.tolist() == [[2.0] * 4]
    assert out.dtype == torch.float64
    with pytest.raises(ModelError, match=r"node 'none' \(Nothing\).*has no reference implementation \(define compute"):
        run(single(Nothing(), "none"), {"x": np.ones((1, 4))})


def test_what_torch_cannot_compute_names_the_node() -> None:
    broken = Graph()
    x = broken.add_input("x", Value(("N", 4)))
    y = broken.add_input("y", Value(("N", 4)))
    broken.outputs = {"z": broken.add(ops.Binary(fn="add"), [x, y], name="sum").output}
    broken.values["y"] = Value((3, 4))  # a graph that lies
    with pytest.raises(ModelError, match=r"node 'sum' \(Binary\): The size of tensor"):
        run(broken, {"x": np.ones((2, 4)), "y": np.ones((3, 4))})


def opaque(
    op_type: str, inputs: Sequence[str], values: Sequence[Value], domain: str = "", **attrs: object
) -> ops.Opaque:
    outputs = [f"o{i}" for i in range(len(values))]
    proto = helper.make_node(op_type, list(inputs), outputs, domain=domain, **attrs).SerializeToString()
    return ops.Opaque(op_type=op_type, domain=domain, proto=proto, values=tuple(values))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_opaque_runs_in_onnx(dtype: torch.dtype) -> None:
    x = torch.tensor([[-1.0, 2.0, -0.5, 0.25]], dtype=dtype)
    out = run(single(opaque("Elu", ["a"], [Value(("N", 4))], alpha=0.5), "elu"), {"x": x}, dtype)["y"]
    assert out.dtype == dtype
    expected = torch.where(x > 0, x, 0.5 * (x.double().exp() - 1).to(dtype))
    torch.testing.assert_close(out, expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-6, atol=0)


def test_opaque_with_an_absent_input_and_two_outputs() -> None:
    graph = Graph()
    x = graph.add_input("x", Value((2, 4)))
    k = graph.add_constant(np.array([2], np.int64))
    top = opaque("TopK", ["a", "b"], [Value((2, 2)), Value((2, 2), "int64")])
    values, places = graph.add(top, [x, k]).outputs
    low = graph.add_constant(np.array(3.0, np.float32))
    clipped = graph.add(opaque("Clip", ["a", "", "c"], [Value((2, 2))]), [values, "", low]).output
    graph.outputs = {"clipped": clipped, "places": places}
    found = run(graph, {"x": np.array([[1.0, 5.0, 2.0, 0.0], [9.0, -1.0, 1.0, 2.0]])}, torch.float64)
    assert found["clipped"].tolist() == [[3.0, 2.0], [3.0, 2.0]]
    assert found["places"].tolist() == [[1, 2], [0, 3]]
    assert found["places"].dtype == torch.int64


def test_opaque_means_what_it_meant_in_its_opset() -> None:
    """Clip had attributes until opset 11; Softmax ran over all axes from `axis` on until 13."""
    clip = single(opaque("Clip", ["a"], [Value(("N", 4))], min=1.5, max=3.0), "clip")
    clip.opset = 6
    assert run(clip, {"x": np.array([[1.0, 2.0, 3.0, 4.0]])})["y"].tolist() == [[1.5, 2.0, 3.0, 3.0]]
    graph = Graph()
    x = graph.add_input("x", Value(("N", 2, 3)))
    graph.outputs = {"y": graph.add(opaque("Softmax", ["a"], [Value(("N", 2, 3))], axis=1), [x]).output}
    data = rand(2, 2, 3)
    exp = np.exp(data)
    for opset, axes in ((12, (1, 2)), (13, (1,))):
        graph.opset = opset
        out = run(graph, {"x": data}, torch.float64)["y"].numpy()
        np.testing.assert_allclose(out, exp / exp.sum(axes, keepdims=True), rtol=1e-12)


@pytest.mark.parametrize(
    ("op_type", "domain", "message"),
    [
        ("Nonsense", "", "ONNX opset 17 has no such operator"),
        ("FusedConv", "com.microsoft", "ONNX has no reference implementation of it"),
    ],
)
def test_an_operator_onnx_does_not_know(op_type: str, domain: str, message: str) -> None:
    graph = single(opaque(op_type, ["a"], [Value(("N", 4))], domain), "odd")
    graph.domains = {"": 17, "com.microsoft": 1}
    with pytest.raises(ModelError, match=rf"node 'odd' \({op_type}\): {message}"):
        Executor(graph)


def test_threads_share_an_executor() -> None:
    graph = Graph()
    x = graph.add_input("x", Value(("N", 3, 8, 8)))
    w = graph.add_constant(rand(4, 3, 3, 3).astype(np.float32))
    y = graph.add(ops.Conv(kernel=(3, 3), act=RELU), [x, w]).output
    y = graph.add(opaque("Elu", ["a"], [graph.values[y]]), [y]).output
    graph.outputs = {"y": y}
    executor = Executor(graph)
    feeds = [{"x": rand(1 + i % 3, 3, 8, 8, seed=i)} for i in range(16)]
    expected = [executor(feed)["y"] for feed in feeds]
    with ThreadPoolExecutor(4) as pool:
        for out, wanted in zip(pool.map(lambda feed: executor(feed)["y"], feeds), expected, strict=True):
            torch.testing.assert_close(out, wanted, rtol=0, atol=0)


def test_feeds_take_no_gradient() -> None:
    x = torch.ones(1, 2, requires_grad=True)
    assert not run(chain()[0], {"x": x})["y"].requires_grad
