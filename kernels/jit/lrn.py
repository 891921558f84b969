# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Local response normalisation; see `kernels/lrn.py`."""

from __future__ import annotations

import triton
import triton.language as tl

from optgraph.kernels.jit.addressing import aligned, pixel_offset
from optgraph.kernels.jit.dependence import await_launches


# fmt: off
@triton.jit
def lrn(
    x, out, image, scale, beta, bias, size,
    STRIDE_C: tl.constexpr, SIZE: tl.constexpr, ALIGN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    pixel = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)  # [BLOCK_M]
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)  # [BLOCK_N]
    m_mask = (pixel < size.pixels)[:, None]
    mask = m_mask & (channel < aligned(size.columns, ALIGN))[None, :]  # [BLOCK_M, BLOCK_N]
    x_pixel = pixel_offset(pixel, image.height, image.width, image.stride_n, image.stride_h, image.stride_w, ALIGN)
    row = x + x_pixel[:, None]
    await_launches()
    squares = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for tap in range(SIZE):
        near = channel + tap - (SIZE - 1) // 2
        inside = m_mask & ((near >= 0) & (near < size.columns))[None, :]
        v = tl.load(row + (near * STRIDE_C)[None, :], inside, other=0.0).to(tl.float32)
        squares += v * v
    y = tl.load(row + (channel * STRIDE_C)[None, :], mask, other=0.0).to(tl.float32)
    y *= tl.exp2(-beta * tl.log2(bias + scale * squares))
    out_pixel = pixel.to(tl.int64) * aligned(size.row, ALIGN)
    tl.store(out + out_pixel[:, None] + channel[None, :], y.to(out.dtype.element_ty), mask)
# fmt: on
