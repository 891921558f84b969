# mypy: disable-error-code="no-untyped-def,untyped-decorator,assignment,misc,var-annotated"
"""Depthwise convolution; see `kernels/depthwise.py`."""

from __future__ import annotations

import triton
import triton.language as tl

from optgraph.kernels.jit.addressing import aligned, strip_position, within
from optgraph.kernels.jit.bytes import dotted, words
from optgraph.kernels.jit.dependence import await_launches
from optgraph.kernels.jit.epilogue import activated_by, prologue, store_rows, vector
from optgraph.kernels.jit.rows import repeated, replaced


# fmt: off
@triton.jit
def depthwise(
    x, weight, outside, out, image, window, pre, end,  # outside: of int8, what x has there
    size,  # pixels: N*strips*STRIP*Wo
    STRIDE_C: tl.constexpr, INTEGERS: tl.constexpr, HALF: tl.constexpr, CLEAR: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, UNROLL_H: tl.constexpr, UNROLL_W: tl.constexpr,
    STRIDE_H: tl.constexpr, ROWS: tl.constexpr, STRIP: tl.constexpr,
    ALIGN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    position = (tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)) * ROWS  # [BLOCK_M], of the first row
    n, oh, ow = strip_position(position, size.height, size.width, STRIP)
    m_mask = (position < size.pixels) & (oh < size.height)
    channels = aligned(size.columns, ALIGN)
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)  # [BLOCK_N]
    c_mask = channel < channels
    top = oh * STRIDE_H - window.top
    left = ow * window.stride_w - window.left
    stride_h, stride_w = aligned(image.stride_h, ALIGN).to(tl.int64), aligned(image.stride_w, ALIGN).to(tl.int64)
    corner = n.to(tl.int64) * aligned(image.stride_n, ALIGN) + top * stride_h + left * stride_w
    corners = x + corner[:, None] + (channel * STRIDE_C)[None, :]  # [BLOCK_M, BLOCK_N], may point before x
    # The same for every pixel, but loaded by each thread for its own channels: one load of 16 bytes. What is loaded
    # once would go through shared memory.
    filters = weight + channel[None, :] + tl.zeros((BLOCK_M, 1), tl.int32)

    await_launches()
    added: tl.constexpr = tl.int32 if INTEGERS else tl.float32
    summed: tl.constexpr = tl.float16 if HALF else added
    wide: tl.constexpr = (UNROLL_W + 3) // 4  # words of int8 in a row of a window
    each = channel[None, :] + tl.zeros((BLOCK_M, 1), tl.int32)
    begin = tl.zeros((BLOCK_M, BLOCK_N), dtype=added)
    if end.start is not None:
        begin = tl.load(end.start + each, c_mask[None, :], other=0)
    sums = repeated(begin, ROWS)
    for step in range(KH * KW // (UNROLL_H * UNROLL_W)):
        i_first, j_first = step * UNROLL_W // KW, step * UNROLL_W % KW
        taps = ()
        for k in tl.static_range(UNROLL_H * UNROLL_W):
            taps += (tl.load(filters + (step * UNROLL_W + k) * channels, c_mask[None, :], other=0.0),)
        if INTEGERS:
            nothing, loaded, taps = tl.zeros((BLOCK_M, BLOCK_N), tl.int8), taps, ()
            for h in tl.static_range(UNROLL_H):
                taps += words(loaded, h * UNROLL_W, UNROLL_W, nothing, False)
        for i in tl.static_range((ROWS - 1) * STRIDE_H + UNROLL_H):  # a row of x, for every row of the output it is of
            down = (i_first + i) * window.dilation_h
            h_mask = m_mask & within(top + down, image.height)
            # Integers are added to the sums at once, exactly.
            parts = sums if INTEGERS else repeated(tl.zeros((BLOCK_M, BLOCK_N), dtype=summed), ROWS)
            row = ()
            for j in tl.static_range(UNROLL_W):
                right = (j_first + j) * window.dilation_w
                mask = (h_mask & within(left + right, image.width))[:, None] & c_mask[None, :]
                v = tl.load(corners + (down * stride_h + right * stride_w), mask, other=outside if INTEGERS else 0.0)
                if INTEGERS:
                    row += (v,)
                elif not HALF:
                    v = prologue(v, pre, channel, c_mask)
                elif pre.act is not None:
                    v = pre.act(v, pre.a, pre.b)
                if CLEAR:
                    v = tl.where(mask, v, 0.0)
                if not INTEGERS:
                    for r in tl.static_range(ROWS):
                        if (r * STRIDE_H <= i) and (i < r * STRIDE_H + UNROLL_H):
                            tap = taps[(i - r * STRIDE_H) * UNROLL_W + j].to(summed)
                            parts = replaced(parts, r, parts[r] + v * tap)
            if INTEGERS:
                row = words(row, 0, UNROLL_W, row[0], True)
                for r in tl.static_range(ROWS):
                    if (r * STRIDE_H <= i) and (i < r * STRIDE_H + UNROLL_H):
                        for k in tl.static_range(wide):
                            tap = taps[(i - r * STRIDE_H) * wide + k]
                            parts = replaced(parts, r, dotted(row[k], tap, parts[r]))
            if INTEGERS:
                sums = parts
            else:
                for r in tl.static_range(ROWS):
                    if (r * STRIDE_H <= i) and (i < r * STRIDE_H + UNROLL_H):
                        sums = replaced(sums, r, sums[r] + parts[r].to(added))

    scale = vector(end.scale, each, c_mask[None, :])
    bias = vector(end.bias, each, c_mask[None, :])
    for r in tl.static_range(ROWS):
        acc = activated_by(scale, bias, sums[r], end, channel, c_mask)
        pixel = ((n * size.height + oh + r) * size.width + ow).to(tl.int64)
        store_rows(acc, end, out, size.row, pixel, channel, m_mask & (oh + r < size.height), c_mask, ALIGN)
# fmt: on
