# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Max and average pooling over windows; see `kernels/pool.py`."""

from __future__ import annotations

import triton
import triton.language as tl

from optgraph.kernels.jit.addressing import aligned, strip_position, within
from optgraph.kernels.jit.combine import maximum
from optgraph.kernels.jit.dependence import await_launches
from optgraph.kernels.jit.epilogue import activated, prologue, store_rows
from optgraph.kernels.jit.rows import repeated, replaced


# fmt: off
@triton.jit
def pool(
    x, out, image, window, pre, end,
    size,  # pixels: N*strips*STRIP*Wo
    STRIDE_C: tl.constexpr, MAX: tl.constexpr, INCLUDE_PAD: tl.constexpr, INTEGERS: tl.constexpr,
    CLEAR: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, UNROLL_H: tl.constexpr, UNROLL_W: tl.constexpr,
    STRIDE_H: tl.constexpr, ROWS: tl.constexpr, STRIP: tl.constexpr,
    ALIGN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    position = (tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)) * ROWS  # [BLOCK_M], of the first row
    n, oh, ow = strip_position(position, size.height, size.width, STRIP)
    m_mask = (position < size.pixels) & (oh < size.height)
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)  # [BLOCK_N]
    c_mask = channel < aligned(size.columns, ALIGN)
    top = oh * STRIDE_H - window.top
    left = ow * window.stride_w - window.left
    stride_h, stride_w = aligned(image.stride_h, ALIGN).to(tl.int64), aligned(image.stride_w, ALIGN).to(tl.int64)
    corner = n.to(tl.int64) * aligned(image.stride_n, ALIGN) + top * stride_h + left * stride_w
    corners = x + corner[:, None] + (channel * STRIDE_C)[None, :]  # [BLOCK_M, BLOCK_N], may point before x

    await_launches()
    neutral = float("-inf") if MAX else 0.0
    outside = -128 if MAX and INTEGERS else 0 if INTEGERS or CLEAR else neutral  # the least that x may have
    pooled: tl.constexpr = tl.int32 if INTEGERS else tl.float32
    nothing = tl.full((BLOCK_M, BLOCK_N), outside if INTEGERS else neutral, dtype=pooled)
    none = tl.zeros((BLOCK_M,), dtype=tl.float32)
    accs, counts = repeated(nothing, ROWS), repeated(none, ROWS)
    for step in range(KH * KW // (UNROLL_H * UNROLL_W)):
        i_first, j_first = step * UNROLL_W // KW, step * UNROLL_W % KW
        for i in tl.static_range((ROWS - 1) * STRIDE_H + UNROLL_H):  # a row of x, for every row of the output it is of
            down = (i_first + i) * window.dilation_h
            h_mask = m_mask & within(top + down, image.height)
            acc, count = nothing, none
            for j in tl.static_range(UNROLL_W):
                right = (j_first + j) * window.dilation_w
                inside = h_mask & within(left + right, image.width)
                mask = inside[:, None] & c_mask[None, :]
                v = tl.load(corners + (down * stride_h + right * stride_w), mask, other=outside)
                v = v.to(tl.int32) if INTEGERS else prologue(v, pre, channel, c_mask)
                if CLEAR:
                    v = tl.where(mask, v, neutral)
                acc = maximum(acc, v) if MAX else acc + v
                count += inside.to(tl.float32)
            for r in tl.static_range(ROWS):
                if (r * STRIDE_H <= i) and (i < r * STRIDE_H + UNROLL_H):
                    accs = replaced(accs, r, maximum(accs[r], acc) if MAX else accs[r] + acc)
                    counts = replaced(counts, r, counts[r] + count)

    for r in tl.static_range(ROWS):
        acc = accs[r]
        if INTEGERS:
            zeros = pre.zero if MAX else (counts[r] * pre.zero)[:, None]
            acc = (acc.to(tl.float32) - zeros) * pre.step
            if MAX:
                acc = tl.where((counts[r] > 0)[:, None], acc, neutral)
        if not MAX:
            if INCLUDE_PAD:
                acc *= 1.0 / (KH * KW)
            else:
                acc *= (1.0 / tl.maximum(counts[r], 1.0))[:, None]
        acc = activated(acc, end, channel, c_mask)
        pixel = ((n * size.height + oh + r) * size.width + ow).to(tl.int64)
        store_rows(acc, end, out, size.row, pixel, channel, m_mask & (oh + r < size.height), c_mask, ALIGN)
# fmt: on
