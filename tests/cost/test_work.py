"""Bytes and multiply-adds of launches, against sums by hand, a count of every address, and published figures."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from optgraph import ops
from optgraph.base.dtypes import ITEMSIZE
from optgraph.cost.work import Cost, bytes_per_image, costs
from optgraph.cost.work import moved_per_image as moved_by
from optgraph.ir.graph import Graph
from optgraph.ir.values import Segment
from optgraph.kernels.frame.view import View
from optgraph.kernels.frame.work import Work, read_bytes, touched
from optgraph.onnx import read
from optgraph.ops import Conv, Pool, Split
from optgraph.passes import pipeline
from optgraph.plan.lowering import lower
from optgraph.plan.weights import Shapes
from tests.support.networks import Builder, inception_a, xception
from tests.support.paths import GRAPHS


def counted(graph: Graph, batch: int = 1, dtype: str = "fp32") -> list[Cost]:
    return list(costs(lower(graph, batch, dtype), Shapes(graph.constants)))


def works(graph: Graph, batch: int = 1, dtype: str = "fp32") -> list[Work]:
    return [cost.work for cost in counted(graph, batch, dtype)]


def bytes_of(view: View, positions: Mapping[int, Sequence[int]]) -> int:
    return read_bytes(view.shape, view.strides, view.offset, ITEMSIZE[view.dtype], positions)


def moved_per_image(graph: Graph, batch: int = 1, dtype: str = "fp32") -> int:
    return moved_by(lower(graph, batch, dtype), Shapes(graph.constants))


# ---- launches, by hand


def test_a_convolution_reads_and_writes_every_value_once() -> None:
    b = Builder(channels=12, size=9)
    graph = b.done(b.conv(b.x, 5, kernel=3))
    (conv,) = works(graph, batch=2)
    assert (conv.read, conv.written) == (2 * 81 * 12 * 4, 2 * 81 * 5 * 4)
    assert conv.moved == conv.read + conv.written
    assert conv.weight_bytes == 4 * (5 * 12 * 9 + 5)
    assert conv.flops == {"weight": 2 * 2 * 81 * 5 * 12 * 9}


def test_half_precision_halves_all_but_the_input_and_the_bias() -> None:
    b = Builder(channels=12, size=9)
    graph = b.done(b.conv(b.conv(b.x, 8, kernel=3), 5))
    first, second = works(graph, dtype="fp16")
    assert (first.read, first.written) == (81 * 12 * 4, 81 * 8 * 2)
    assert (second.read, second.written) == (81 * 8 * 2, 81 * 5 * 2)
    assert first.weight_bytes == 2 * 8 * 12 * 9 + 4 * 8


def test_a_batch_multiplies_activations_and_products_but_no_weights() -> None:
    graph = xception()
    pipeline.apply(graph, pipeline.FUSE)
    for one, three in zip(works(graph), works(graph, batch=3), strict=True):
        assert (three.read, three.written) == (3 * one.read, 3 * one.written)
        assert three.flops == {name: 3 * flops for name, flops in one.flops.items()}
        assert three.weight_bytes == one.weight_bytes
    assert moved_per_image(graph, 1) == moved_per_image(graph, 3)


def test_flops_of_each_kind_of_product() -> None:
    b = Builder(channels=12, size=9)
    grouped = b.conv(b.x, 16, kernel=3, groups=4)
    separable = b.graph.add(
        ops.Separable(kernel=(3, 3), pads=(1, 1, 1, 1)),
        (grouped, b.constant(16, 1, 3, 3), "", b.constant(10, 16, 1, 1)),
    ).output
    merged = b.graph.add(
        ops.MergedPointwise(segments=(Segment(channels=4), Segment(channels=3))),
        (separable, "", "", b.constant(4, 10, 1, 1), "", b.constant(3, 10, 1, 1), b.constant(3)),
    )
    bottleneck = b.graph.add(
        ops.Bottleneck(kernel=(3, 3), pads=(1, 1, 1, 1)),
        (merged.outputs[0], b.constant(6, 4, 3, 3), "", b.constant(20, 6, 1, 1), ""),
    ).output
    pooled = b.graph.add(ops.GlobalPool(mode="average"), (bottleneck,)).output
    flat = b.graph.add(ops.Reshape(shape=("N", 20)), (pooled,)).output
    logits = b.graph.add(ops.Gemm(), (flat, b.constant(7, 20))).output
    graph = b.done(logits, b.depthwise(merged.outputs[1], kernel=5))
    found = [flops for launch in works(graph) for flops in launch.flops.values()]
    products = [16 * 3 * 9, 16 * 9, 16 * 10, 10 * 7, 6 * 4 * 9, 20 * 6, 3 * 25]
    assert sorted(found) == sorted([*(2 * 81 * product for product in products), 2 * 7 * 20])


def test_a_pool_before_a_product_is_no_traffic_and_no_flops() -> None:
    b = Builder(channels=16, size=9)
    x = b.conv(b.x, 16)
    op = ops.PooledPointwise(kernel=(3, 3), stride=(2, 2))
    (_, cost) = counted(b.done(b.graph.add(op, (x, b.constant(5, 16, 1, 1))).output))
    found = cost.work
    assert cost.call.name == "pooled_pointwise" and found.flops == {"weight": 2 * 16 * 16 * 5}
    assert (found.read, found.written) == (81 * 16 * 4, 16 * 5 * 4)


def test_of_a_fallback_only_bytes_are_known() -> None:
    b = Builder(channels=4, size=3)
    graph = b.done(b.graph.add(ops.Hardmax(axis=1), [b.x]).output)
    (cost,) = counted(graph)
    found = cost.work
    assert cost.call.name == "fallback" and found.flops == {}
    assert (found.read, found.written) == (4 * 9 * 4, 4 * 9 * 4)


# ---- what a launch passes over


def test_a_strided_pointwise_convolution_reads_a_quarter_of_the_pixels() -> None:
    b = Builder(channels=16, size=9)
    x = b.conv(b.x, 16)
    strided = works(b.done(b.conv(x, 5, stride=2)))[1]
    assert strided.read == 25 * 16 * 4


def test_sectors_of_32_bytes_are_read_whole() -> None:
    b = Builder(channels=12, size=9)
    x = b.conv(b.x, 12)
    strided = works(b.done(b.conv(x, 5, stride=2)))[1]
    # Pixels of 48 bytes begin on a sector or in the middle of one: each is one and a half sectors of two.
    assert strided.read == 25 * 64
    b = Builder(channels=12, size=9)
    planes = works(b.done(b.conv(b.x, 5, stride=2)))[0]
    assert 12 * 4 * 5 * 9 < planes.read < 12 * 4 * 81, (
        "an N×C×H×W input has other columns in the sector, not other rows"
    )


@pytest.mark.parametrize(
    ("window", "rows"),
    [
        ({"kernel": (3, 3), "stride": (2, 2)}, 9),
        ({"kernel": (2, 2), "stride": (3, 3)}, 6),
        ({"kernel": (2, 2), "stride": (3, 3), "pads": (1, 1, 0, 0)}, 5),
        ({"kernel": (2, 2), "stride": (6, 6), "dilation": (2, 2)}, 4),
    ],
)
def test_windows_that_leave_gaps(window: dict, rows: int) -> None:
    b = Builder(channels=16, size=9)
    x = b.conv(b.x, 16)
    y = b.graph.add(Pool(mode="max", **window), (x,)).output
    z = b.graph.add(Conv(**window), (x, b.constant(4, 16, *window["kernel"]))).output
    pool, conv = works(b.done(y, z))[1:]
    assert pool.read == conv.read == rows * rows * 16 * 4


def test_a_slice_counts_its_own_channels() -> None:
    b = Builder(channels=8, size=5)
    x = b.conv(b.x, 32)
    left, right = b.graph.add(Split(axis=1, sizes=(8, 24)), (x,), ("left", "right")).outputs
    first, second = works(b.done(b.conv(left, 3, kernel=3), b.conv(right, 3, kernel=3)))[1:]
    assert (first.read, second.read) == (25 * 8 * 4, 25 * 24 * 4)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("offset", [0, 5, 8])
@pytest.mark.parametrize(
    ("size", "channels", "whole", "dtype"),
    [(19, 728, 728, "float16"), (9, 48, 256, "float16"), (8, 24, 40, "float32"), (11, 3, 4, "float16")],
)
def test_sectors_are_those_that_the_addresses_lie_in(
    size: int, channels: int, whole: int, dtype: str, offset: int, stride: int
) -> None:
    """Counted address by address."""
    item, pitch = ITEMSIZE[dtype], whole * ITEMSIZE[dtype]
    positions = touched(size, (size - 1) // stride + 1, 1, stride, 0, 1)
    view = View("b", (1, size, size, channels), (size * size * whole, size * whole, whole, 1), dtype, offset)
    pixels = [(h * size + w) * pitch + view.offset * item for h, w in itertools.product(positions, positions)]
    counted = {byte // 32 for start in pixels for byte in range(start, start + channels * item)}
    dense = channels == whole and stride == 1
    assert bytes_of(view, {1: positions, 2: positions}) == (view.bytes if dense else 32 * len(counted))


@given(
    st.integers(1, 30), st.integers(1, 5), st.integers(1, 5), st.integers(0, 4), st.integers(0, 4), st.integers(1, 3)
)
def test_touched_positions_are_those_of_every_tap(
    size: int, kernel: int, stride: int, before: int, after: int, dilation: int
) -> None:
    windows = (size + before + after - dilation * (kernel - 1) - 1) // stride + 1
    assume(windows > 0 and before < kernel and after < kernel)
    taps = {w * stride - before + tap * dilation for w in range(windows) for tap in range(kernel)}
    positions = touched(size, windows, kernel, stride, before, dilation)
    assert list(positions) == sorted(taps & set(range(size)))


def test_huge_images_are_not_looked_at_pixel_by_pixel() -> None:
    size = 2**31
    assert len(touched(size, size // 2, 1, 2, 0, 1)) == size // 2
    assert len(touched(size, size, 3, 1, 1, 1)) == len(touched(size, size, 3, 1, 2, 2)) == size
    view = View("b", (1, 2**14, 2**14, 24), (2**28 * 24, 2**14 * 24, 24, 1), "float16")
    every_other = range(0, 2**14, 2)
    assert bytes_of(view, {1: every_other, 2: every_other}) == 2**26 * 48


# ---- a graph, operator by operator


def test_before_and_after_mean_the_same() -> None:
    """Where nothing fuses, the plan moves what the graph does, gaps of a stride included."""
    b = Builder(channels=16, size=9)
    graph = b.done(b.conv(b.conv(b.conv(b.x, 16, kernel=3), 16, stride=2), 5, kernel=5, stride=2))
    assert bytes_per_image(graph) == moved_per_image(graph, 4)
    graph = inception_a()
    before = bytes_per_image(graph, "fp16")
    pipeline.apply(graph, pipeline.FUSE)
    assert moved_per_image(graph, 1, "fp16") < 0.7 * before


# ---- the networks


def network(name: str) -> Graph:
    graph = read.read(GRAPHS / f"torch_{name}.onnx", allow_stripped=True)
    pipeline.apply(graph, pipeline.SIMPLIFY + pipeline.FUSE)
    return graph


@pytest.mark.parametrize(
    ("name", "macs", "parameters", "moved"),
    [
        ("inception_v3", 5.71e9, 23.8e6, 43.7e6),
        ("xception", 8.36e9, 22.8e6, 97.0e6),
        ("inception_resnet_v2", 13.2e9, 55.8e6, 130e6),
        ("resnet50", 4.09e9, 25.6e6, 55e6),
    ],
)
def test_networks(name: str, macs: float, parameters: float, moved: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Multiply-adds and parameters as published for images of these sizes; bytes as counted by hand, or below, every
    separable as one launch."""
    monkeypatch.setattr("optgraph.kernels.separable.pays", lambda *_, **__: True)
    graph = network(name)
    found = works(graph, 1, "fp16")
    assert sum(sum(work.flops.values()) for work in found) / 2 == pytest.approx(macs, rel=0.02)
    assert sum(work.weight_bytes for work in found) / 2 == pytest.approx(parameters, rel=0.02)
    assert moved_per_image(graph, 1, "fp16") <= moved
