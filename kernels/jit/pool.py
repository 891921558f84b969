# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Max and average pooling over windows; see `kernels/pool.py`."""

from __future__ import annotations

import triton
import triton.language as tl

from optgraph.kernels.jit.addressing import aligned, strip_position, within
from optgraph.kernels.jit.bytes import larger, lowered, numbers, raised, total, widened
from optgraph.kernels.jit.combine import maximum
from optgraph.kernels.jit.dependence import await_launches
from optgraph.kernels.jit.epilogue import activated, prologue, store_rows
from optgraph.kernels.jit.grid import quotient
from optgraph.kernels.jit.rows import repeated, replaced


# fmt: off
@triton.jit
def pool(
    x, out, image, window, pre, end,
    size,  # pixels: N*strips*STRIP*Wo
    STRIDE_C: tl.constexpr, MAX: tl.constexpr, INCLUDE_PAD: tl.constexpr, INTEGERS: tl.constexpr,
    KEPT: tl.constexpr, NEAR: tl.constexpr, PAIRS: tl.constexpr, CLEAR: tl.constexpr,
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
    pictures = x + (n.to(tl.int64) * aligned(image.stride_n, ALIGN))[:, None] + (channel * STRIDE_C)[None, :]
    corners = x + corner[:, None] + (channel * STRIDE_C)[None, :]  # [BLOCK_M, BLOCK_N], may point before x

    await_launches()
    neutral = float("-inf") if MAX else 0.0
    outside = -128 if MAX and INTEGERS else 0 if INTEGERS or CLEAR else neutral  # the least that x may have
    pooled: tl.constexpr = tl.int16 if INTEGERS else tl.float32
    nothing = tl.full((BLOCK_M, BLOCK_N), -32768 if MAX and INTEGERS else 0 if INTEGERS else neutral, dtype=pooled)
    none = tl.zeros((BLOCK_M,), dtype=tl.float32)
    accs, counts = repeated(nothing, ROWS), repeated(none, ROWS)
    for step in range(KH * KW // (UNROLL_H * UNROLL_W)):
        i_first, j_first = step * UNROLL_W // KW, step * UNROLL_W % KW
        for i in tl.static_range((ROWS - 1) * STRIDE_H + UNROLL_H):  # a row of x, for every row of the output it is of
            down = (i_first + i) * window.dilation_h
            h_mask = m_mask & within(top + down, image.height)
            acc, count = nothing, none  # count: of the positions in that row that are inside of x
            for j in tl.static_range(UNROLL_W):
                right = (j_first + j) * window.dilation_w
                inside = within(left + right, image.width)
                if NEAR:  # every window has the pixel of x that is nearest to any of its positions
                    row = tl.minimum(tl.maximum(top + down, 0), image.height - 1)
                    column = tl.minimum(tl.maximum(left + right, 0), image.width - 1)
                    at = row * stride_h + column * stride_w
                    v = tl.load(pictures + at[:, None], m_mask[:, None] & c_mask[None, :])
                else:
                    mask = (h_mask & inside)[:, None] & c_mask[None, :]
                    v = tl.load(corners + (down * stride_h + right * stride_w), mask, other=outside)
                if INTEGERS:
                    v = raised(v) if MAX else widened(v)
                if not INTEGERS:
                    v = prologue(v, pre, channel, c_mask)
                if CLEAR:
                    v = tl.where(mask, v, neutral)
                acc = _joined(acc, v, MAX, PAIRS)
                count += tl.where(inside, 1.0, 0.0)
            count = tl.where(h_mask, count, 0.0)
            for r in tl.static_range(ROWS):
                if (r * STRIDE_H <= i) and (i < r * STRIDE_H + UNROLL_H):
                    accs = replaced(accs, r, _joined(accs[r], acc, MAX, PAIRS))
                    counts = replaced(counts, r, counts[r] + count)

    for r in tl.static_range(ROWS):
        acc = accs[r]
        taps = tl.full((BLOCK_M,), KH * KW, tl.float32) if INCLUDE_PAD else tl.maximum(counts[r], 1.0)
        each = (1.0 / taps)[:, None]
        if INTEGERS and MAX:
            acc = lowered(acc)
        elif INTEGERS:
            acc = numbers(acc) - (8388608.0 + 128 * KH * KW + counts[r] * pre.zero)[:, None]
        pixel = ((n * size.height + oh + r) * size.width + ow).to(tl.int64)
        row_mask = m_mask & (oh + r < size.height)
        if KEPT:  # out is on x's grid, and nothing else is done
            acc = acc if MAX else quotient(acc, each, pre.zero)
            stored = out + pixel[:, None] * aligned(size.row, ALIGN) + channel[None, :]
            tl.store(stored, acc, row_mask[:, None] & c_mask[None, :])
        else:
            if INTEGERS:
                acc = (acc.to(tl.float32) - pre.zero) * pre.step if MAX else acc * pre.step
                if MAX:
                    acc = tl.where((counts[r] > 0)[:, None], acc, neutral)
            if not MAX:
                acc *= each
            acc = activated(acc, end, channel, c_mask)
            store_rows(acc, end, out, size.row, pixel, channel, row_mask, c_mask, ALIGN)


@triton.jit
def _joined(x, y, MAX: tl.constexpr, PAIRS: tl.constexpr):
    """The maximum or the sum of two blocks."""
    if MAX:
        return maximum(x, y) if x.dtype == tl.float32 else larger(x, y, PAIRS)
    return x + y if x.dtype == tl.float32 else total(x, y)
# fmt: on
