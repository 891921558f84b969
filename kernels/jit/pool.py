# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Max and average pooling over windows; see `kernels/pool.py`."""

from __future__ import annotations

import triton
import triton.language as tl

from optgraph.kernels.jit.addressing import aligned, strip_position
from optgraph.kernels.jit.dependence import await_launches
from optgraph.kernels.jit.epilogue import activated, prologue, store_rows


# fmt: off
@triton.jit
def pool(
    x, out, image, window, pre, end,
    size,  # pixels: N*strips*STRIP*Wo
    STRIDE_C: tl.constexpr, MAX: tl.constexpr, INCLUDE_PAD: tl.constexpr, CLEAR: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, UNROLL: tl.constexpr, STRIP: tl.constexpr,
    ALIGN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    position = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)  # [BLOCK_M]
    n, oh, ow = strip_position(position, size.height, size.width, STRIP)
    m_mask = (position < size.pixels) & (oh < size.height)
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)  # [BLOCK_N]
    c_mask = channel < aligned(size.columns, ALIGN)
    first = n.to(tl.int64) * aligned(image.stride_n, ALIGN)
    picture = x + first[:, None] + (channel * STRIDE_C)[None, :]  # [BLOCK_M, BLOCK_N]
    top = oh * window.stride_h - window.top
    left = ow * window.stride_w - window.left

    await_launches()
    neutral = float("-inf") if MAX else 0.0
    acc = tl.full((BLOCK_M, BLOCK_N), neutral, dtype=tl.float32)
    count = tl.zeros((BLOCK_M,), dtype=tl.float32)
    for step in range(KH * KW // UNROLL):
        h = top + step * UNROLL // KW * window.dilation_h
        h_mask = m_mask & (h >= 0) & (h < image.height)
        row = h.to(tl.int64) * aligned(image.stride_h, ALIGN)
        for u in tl.static_range(UNROLL):
            w = left + (step * UNROLL % KW + u) * window.dilation_w
            inside = h_mask & (w >= 0) & (w < image.width)
            mask = inside[:, None] & c_mask[None, :]
            offset = row + w.to(tl.int64) * aligned(image.stride_w, ALIGN)
            v = tl.load(picture + offset[:, None], mask, other=neutral)
            v = prologue(v, pre, channel, c_mask)
            if CLEAR:
                v = tl.where(mask, v, neutral)
            if MAX:
                acc = tl.maximum(acc, v, propagate_nan=tl.PropagateNan.ALL)
            else:
                acc += v
                count += inside.to(tl.float32)

    if not MAX:
        if INCLUDE_PAD:
            acc *= 1.0 / (KH * KW)
        else:
            acc *= (1.0 / tl.maximum(count, 1.0))[:, None]
    acc = activated(acc, end, channel, c_mask)
    pixel = ((n * size.height + oh) * size.width + ow).to(tl.int64)
    store_rows(acc, end, out, size.row, pixel, channel, m_mask, c_mask, ALIGN)
# fmt: on
