# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Padding; see `kernels/pad.py`."""

from __future__ import annotations

import triton
import triton.language as tl

from optgraph.kernels.jit.addressing import aligned
from optgraph.kernels.jit.dependence import await_launches


# fmt: off
@triton.jit
def pad(
    x, out, image, top, left, front, value, channels, size,
    STRIDE_C: tl.constexpr, EDGE: tl.constexpr, ALIGN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    pixel = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)  # [BLOCK_M]
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)  # [BLOCK_N]
    row = pixel // size.width
    h = row % size.height - top
    w = pixel % size.width - left
    if EDGE:
        h = tl.minimum(tl.maximum(h, 0), image.height - 1)
        w = tl.minimum(tl.maximum(w, 0), image.width - 1)
    source = channel - aligned(front, ALIGN)
    if EDGE:
        source = tl.minimum(tl.maximum(source, 0), channels - 1)
    inside = (h >= 0) & (h < image.height) & (w >= 0) & (w < image.width)
    mask = (pixel < size.pixels)[:, None] & (channel < aligned(size.columns, ALIGN))[None, :]  # [BLOCK_M, BLOCK_N]
    x_pixel = (row // size.height).to(tl.int64) * aligned(image.stride_n, ALIGN)
    x_pixel += h.to(tl.int64) * aligned(image.stride_h, ALIGN) + w.to(tl.int64) * aligned(image.stride_w, ALIGN)
    within = inside[:, None] & ((source >= 0) & (source < aligned(channels, ALIGN)))[None, :]
    await_launches()
    y = tl.load(x + x_pixel[:, None] + (source * STRIDE_C)[None, :], mask & within, other=0.0)
    y = tl.where(within, y.to(tl.float32), value)
    out_pixel = pixel.to(tl.int64) * aligned(size.row, ALIGN)
    tl.store(out + out_pixel[:, None] + channel[None, :], y.to(out.dtype.element_ty), mask)
# fmt: on
