# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Elementwise chains; see `kernels/elementwise.py`."""

from __future__ import annotations

import triton
import triton.language as tl

from optgraph.kernels.jit.addressing import aligned, pixel_offset
from optgraph.kernels.jit.dependence import await_launches
from optgraph.kernels.jit.epilogue import prologue
from optgraph.kernels.jit.grid import settled


# fmt: off
@triton.jit
def elementwise(
    x, out, image, pre, combine, other, other_strides, other_grid, post, grids, size,
    STRIDE_C: tl.constexpr, OTHER_C: tl.constexpr,
    ALIGN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    pixel = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)  # [BLOCK_M]
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)  # [BLOCK_N]
    c_mask = channel < aligned(size.columns, ALIGN)
    mask = (pixel < size.pixels)[:, None] & c_mask[None, :]  # [BLOCK_M, BLOCK_N]

    # One number for all channels may lie anywhere.
    x_align: tl.constexpr = ALIGN if STRIDE_C != 0 else 1
    other_align: tl.constexpr = ALIGN if OTHER_C != 0 else 1
    x_pixel = pixel_offset(pixel, image.height, image.width, image.stride_n, image.stride_h, image.stride_w, x_align)
    await_launches()
    y = tl.load(x + x_pixel[:, None] + (channel * STRIDE_C)[None, :], mask, other=0.0)
    y = prologue(y, pre, channel, c_mask)
    if other is not None:
        other_pixel = pixel_offset(
            pixel, image.height, image.width, other_strides[0], other_strides[1], other_strides[2], other_align
        )
        z = tl.load(other + other_pixel[:, None] + (channel * OTHER_C)[None, :], mask, other=0.0).to(tl.float32)
        if other_grid.scale is not None:
            z = (z - other_grid.zero) * other_grid.scale
        y = combine(y, z)
    y = post.fn(y, post.a, post.b)
    out_pixel = pixel.to(tl.int64) * aligned(size.row, ALIGN)
    tl.store(out + out_pixel[:, None] + channel[None, :], settled(y, grids, out.dtype.element_ty), mask)
# fmt: on
