# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Depthwise convolution; see `kernels/depthwise.py`."""

from __future__ import annotations

import triton
import triton.language as tl

from optgraph.kernels.jit.addressing import aligned, strip_position
from optgraph.kernels.jit.dependence import await_launches
from optgraph.kernels.jit.epilogue import activated, prologue, store_rows


# fmt: off
@triton.jit
def depthwise(
    x, weight, out, image, window, pre, end,
    size,  # pixels: N*strips*STRIP*Wo
    STRIDE_C: tl.constexpr, HALF: tl.constexpr, CLEAR: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, UNROLL: tl.constexpr, STRIP: tl.constexpr,
    ALIGN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    position = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)  # [BLOCK_M]
    n, oh, ow = strip_position(position, size.height, size.width, STRIP)
    m_mask = (position < size.pixels) & (oh < size.height)
    channels = aligned(size.columns, ALIGN)
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)  # [BLOCK_N]
    c_mask = channel < channels
    first = n.to(tl.int64) * aligned(image.stride_n, ALIGN)
    picture = x + first[:, None] + (channel * STRIDE_C)[None, :]  # [BLOCK_M, BLOCK_N]
    top = oh * window.stride_h - window.top
    left = ow * window.stride_w - window.left

    await_launches()
    summed: tl.constexpr = tl.float16 if HALF else tl.float32
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for step in range(KH * KW // UNROLL):
        i = step * UNROLL // KW
        h = top + i * window.dilation_h
        h_mask = m_mask & (h >= 0) & (h < image.height)
        row = h.to(tl.int64) * aligned(image.stride_h, ALIGN)
        part = tl.zeros((BLOCK_M, BLOCK_N), dtype=summed)
        for u in tl.static_range(UNROLL):
            j = step * UNROLL % KW + u
            w = left + j * window.dilation_w
            mask = (h_mask & (w >= 0) & (w < image.width))[:, None] & c_mask[None, :]
            offset = row + w.to(tl.int64) * aligned(image.stride_w, ALIGN)
            v = tl.load(picture + offset[:, None], mask, other=0.0)
            if not HALF:
                v = prologue(v, pre, channel, c_mask)
            elif pre.act is not None:
                v = pre.act(v, pre.a, pre.b)
            if CLEAR:
                v = tl.where(mask, v, 0.0)
            tap = tl.load(weight + (i * KW + j) * channels + channel, c_mask, other=0.0).to(summed)
            part += v * tap[None, :]
        acc += part.to(tl.float32)

    acc = activated(acc, end, channel, c_mask)
    pixel = ((n * size.height + oh) * size.width + ow).to(tl.int64)
    store_rows(acc, end, out, size.row, pixel, channel, m_mask, c_mask, ALIGN)
# fmt: on
