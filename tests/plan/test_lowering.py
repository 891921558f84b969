"""Lowering: which kernels a graph becomes, where values lie, and what falls back."""

from __future__ import annotations

import numpy as np
import pytest

from optgraph import ops
from optgraph.base.errors import InputError
from optgraph.ir.graph import Graph
from optgraph.ir.values import Value
from optgraph.passes import pipeline
from optgraph.plan.lowering import lower
from tests.support.networks import Builder, inception_a, inception_resnet, preactivation_resnet, xception


def fused(graph: Graph) -> Graph:
    pipeline.apply(graph, pipeline.FUSE)
    return graph


def test_inception_block_launches_one_kernel_a_branch_and_no_concat() -> None:
    plan = lower(fused(inception_a()), batch=2)
    assert plan.launches_by_kernel() == {"conv2d": 3, "pointwise": 2, "pool": 1}
    assert plan.fallbacks == ()


def test_concat_parts_are_slices_of_one_buffer() -> None:
    graph = fused(inception_a())
    plan = lower(graph)
    (concat,) = (node for node in graph.nodes() if isinstance(node.op, ops.Concat))
    whole = plan.results[concat.output]
    offset = 0
    for value in concat.inputs:
        part = plan.results[value]
        assert (part.base, part.offset, part.strides) == (whole.base, offset, whole.strides)
        offset += part.shape[1]
    assert offset == whole.shape[1]


@pytest.mark.parametrize("build", [inception_a, xception, inception_resnet, preactivation_resnet])
def test_every_byte_read_was_written_and_is_still_there(build) -> None:
    """Replays the calls on a map from byte to writer: a read finds what its view's buffer wrote last."""
    plan = lower(fused(build()), batch=1)
    arena: dict[int, str] = {}

    def elements(view) -> np.ndarray:
        index = np.full(view.shape, plan.offsets[view.base] // 4 + view.offset)
        for axis, (size, stride) in enumerate(zip(view.shape, view.strides, strict=True)):
            index += (np.arange(size) * stride).reshape([-1 if i == axis else 1 for i in range(len(view.shape))])
        return index.ravel()

    for call in plan.calls:
        for view in call.reads.values():
            if view.base not in plan.inputs:
                assert {arena.get(i) for i in elements(view)} == {view.base}
        for view in call.written:
            arena.update(dict.fromkeys(elements(view).tolist(), view.base))
    for view in plan.outputs.values():
        assert {arena.get(i) for i in elements(view)} == {view.base}
    assert max(arena) * 4 < plan.arena_bytes


def test_batch_fills_the_symbol_and_scales_the_arena() -> None:
    graph = fused(xception())
    one, three = lower(graph, 1), lower(graph, 3)
    assert one.inputs["x"].shape[0] == 1 and three.inputs["x"].shape[0] == 3
    assert one.arena_bytes < three.arena_bytes <= 3 * one.arena_bytes


def test_half_precision_halves_the_bytes_but_not_the_logits() -> None:
    b = Builder(channels=6, size=4)
    pooled = b.graph.add(ops.GlobalPool(mode="average"), [b.conv(b.x, 5)]).output
    flat = b.graph.add(ops.Reshape(shape=("N", 5)), [pooled]).output
    graph = fused(b.done(b.graph.add(ops.Gemm(), [flat, b.constant(7, 5)]).output))
    plan = lower(graph, dtype="fp16")
    assert plan.outputs["y0"].dtype == "float32"
    assert plan.results[pooled].dtype == "float16"
    assert plan.results[flat].base == plan.results[pooled].base  # the reshape is a view


def test_transpose_of_an_nhwc_input_is_a_view() -> None:
    graph = Graph()
    x = graph.add_input("x", Value(("N", 6, 5, 3)))
    t = graph.add(ops.Transpose(perm=(0, 3, 1, 2)), [x]).output
    w = graph.add_constant(np.ones((4, 3, 3, 3), np.float32))
    graph.outputs["y"] = graph.add(ops.Conv(kernel=(3, 3)), [t, w]).output
    plan = lower(graph)
    assert plan.launches_by_kernel() == {"conv2d": 1}
    assert plan.calls[0].reads["x"].base == "x"
    assert plan.calls[0].reads["x"].strides == (90, 15, 3, 1)


def test_a_residual_that_is_not_channels_last_is_copied() -> None:
    b = Builder(channels=4, size=5)
    w = b.constant(4, 4, 1, 1)
    graph = b.done(b.graph.add(ops.Conv(kernel=(1, 1)), [b.x, w, "", b.x]).output)
    assert lower(graph).launches_by_kernel() == {"elementwise": 1, "pointwise": 1}


@pytest.mark.parametrize(
    "op, shape, reason",
    [
        (ops.LRN(size=3), ("N", 4, 5), "LRN of rank 3"),
        (ops.Pad(pads=(0, 1, 1, 1, 1, 0, 0, 1, 1, 1)), ("N", 4, 5, 5, 5), r"pads axes [1, 2, 3, 4] of rank 5"),
        (ops.Resize(axes=(2, 3), scales=(2.0, 2.0)), ("N", 4, 5, 5, 5), "along axes [2, 3] of rank 5"),
        (ops.Hardmax(axis=1), ("N", 5), "no kernel for Hardmax"),
    ],
)
def test_what_has_no_kernel_falls_back_with_a_reason(op, shape, reason) -> None:
    graph = Graph()
    x = graph.add_input("x", Value(shape))
    node = graph.add(op, [x] * len(op.slots))
    graph.outputs["y"] = node.output
    plan = lower(graph)
    assert [f.node for f in plan.fallbacks] == [node.name]
    assert reason in plan.fallbacks[0].reason


def test_unknown_dtype_is_an_input_error() -> None:
    with pytest.raises(InputError, match="unknown dtype 'fp8'"):
        lower(xception(), dtype="fp8")


def test_more_pixels_than_a_kernel_counts_are_an_input_error() -> None:
    b = Builder(channels=4, size=4)  # 16 pixels an image
    graph = fused(b.done(b.conv(b.x, 4, 3)))
    assert lower(graph, 2**26).batch == 2**26
    with pytest.raises(
        InputError, match=f"has {2**30 + 16} pixels, and a kernel counts at most .* use a smaller batch"
    ):
        lower(graph, 2**26 + 1)
