# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Local response normalisation: out[c] = x[c] * (bias + alpha/size * sum of x[j]^2) ^ -beta.

The sum is over the `size` channels j around c, (size - 1) // 2 of them below, as far as they exist.
x [N, H, W, C] with any strides, out [N, H, W, C] with dense pixels: a concat slice is fine.

Bound by bytes: a program holds a block of channels and reads their neighbours again, which are in cache.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from optgraph.kernels.frame.choice import Tile, cdiv
from optgraph.kernels.frame.launch import Launch, target_of
from optgraph.kernels.frame.operands import check_shape, row_stride, strides4
from optgraph.kernels.jit.addressing import aligned, alignment, pixel_offset, row_tile


# fmt: off
@triton.jit
def _lrn(
    x, out, pixels, height, width, channels,  # N*H*W, H, W, C
    x_n, x_h, x_w, X_C: tl.constexpr, out_row, scale, beta, bias,
    SIZE: tl.constexpr, ALIGN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    pixel = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)  # [BLOCK_M]
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)  # [BLOCK_N]
    m_mask = (pixel < pixels)[:, None]
    mask = m_mask & (channel < aligned(channels, ALIGN))[None, :]  # [BLOCK_M, BLOCK_N]
    x_pixel = pixel_offset(pixel, height, width, aligned(x_n, ALIGN), aligned(x_h, ALIGN), aligned(x_w, ALIGN))
    row = x + x_pixel[:, None]
    squares = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for tap in range(SIZE):
        near = channel + tap - (SIZE - 1) // 2
        inside = m_mask & ((near >= 0) & (near < channels))[None, :]
        v = tl.load(row + (near * X_C)[None, :], inside, other=0.0).to(tl.float32)
        squares += v * v
    y = tl.load(row + (channel * X_C)[None, :], mask, other=0.0).to(tl.float32)
    y *= tl.exp2(-beta * tl.log2(bias + scale * squares))
    out_pixel = pixel.to(tl.int64) * aligned(out_row, ALIGN)
    tl.store(out + out_pixel[:, None] + channel[None, :], y.to(out.dtype.element_ty), mask)
# fmt: on


def lrn(
    x: torch.Tensor,
    out: torch.Tensor,
    *,
    size: int,
    alpha: float,
    beta: float,
    bias: float,
    tile: Tile | None = None,
) -> Launch:
    """One launch; the parameters are those of ONNX LRN."""
    x_n, x_h, x_w, x_c = strides4(x)
    batch, height, width, channels = x.shape
    check_shape(out, (batch, height, width, channels), "out")
    out_row = row_stride(out, "out")
    pixels = batch * height * width
    tile = tile or row_tile(pixels, channels, x.element_size(), target_of(x))
    return Launch(
        "lrn",
        _lrn,
        (cdiv(pixels, tile.block_m), cdiv(channels, tile.block_n)),
        {
            "x": x,
            "out": out,
            "pixels": pixels,
            "height": height,
            "width": width,
            "channels": channels,
            "x_n": x_n,
            "x_h": x_h,
            "x_w": x_w,
            "out_row": out_row,
            "scale": alpha / size,
            "beta": beta,
            "bias": bias,
        },
        {
            "X_C": x_c,
            "SIZE": size,
            "ALIGN": alignment(channels, x_n, x_h, x_w, out_row),
            "BLOCK_M": tile.block_m,
            "BLOCK_N": tile.block_n,
        },
        tile.num_warps,
        1,  # the neighbours are in cache: no prefetch
    )


def reference(x: torch.Tensor, out: torch.Tensor, *, size: int, alpha: float, beta: float, bias: float) -> torch.Tensor:
    """The same in float64; `out` is not read."""
    x = x.double()
    below, above = (size - 1) // 2, size // 2
    squares = torch.nn.functional.pad(x * x, (below, above)).unfold(-1, size, 1).sum(-1)
    return x * (bias + alpha / size * squares) ** -beta
