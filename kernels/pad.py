# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Padding of height and width: out[n, h, w, c] = x[n, h - top, w - left, c], or `value` outside the image.

With `edge`, the nearest pixel of the image instead of `value`. Negative padding crops. For what no window absorbs:
zeros before a max pool, an edge before a convolution.
x [N, H, W, C] with any strides, out [N, Ho, Wo, C] with dense pixels: a concat slice is fine.

Bound by bytes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from optgraph.kernels.frame.choice import Tile, cdiv
from optgraph.kernels.frame.launch import Launch, target_of
from optgraph.kernels.frame.operands import check_shape, row_stride, strides4
from optgraph.kernels.jit.addressing import aligned, alignment, row_tile


# fmt: off
@triton.jit
def _pad(
    x, out, pixels, height, width, out_height, out_width, channels,  # N*Ho*Wo, H, W, Ho, Wo, C
    x_n, x_h, x_w, X_C: tl.constexpr, out_row, top, left, value,
    EDGE: tl.constexpr, ALIGN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    pixel = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)  # [BLOCK_M]
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)  # [BLOCK_N]
    row = pixel // out_width
    h = row % out_height - top
    w = pixel % out_width - left
    if EDGE:
        h = tl.minimum(tl.maximum(h, 0), height - 1)
        w = tl.minimum(tl.maximum(w, 0), width - 1)
    inside = (h >= 0) & (h < height) & (w >= 0) & (w < width)
    mask = (pixel < pixels)[:, None] & (channel < aligned(channels, ALIGN))[None, :]  # [BLOCK_M, BLOCK_N]
    x_pixel = (row // out_height).to(tl.int64) * aligned(x_n, ALIGN)
    x_pixel += h.to(tl.int64) * aligned(x_h, ALIGN) + w.to(tl.int64) * aligned(x_w, ALIGN)
    y = tl.load(x + x_pixel[:, None] + (channel * X_C)[None, :], mask & inside[:, None], other=0.0)
    y = tl.where(inside[:, None], y.to(tl.float32), value)
    out_pixel = pixel.to(tl.int64) * aligned(out_row, ALIGN)
    tl.store(out + out_pixel[:, None] + channel[None, :], y.to(out.dtype.element_ty), mask)
# fmt: on


def pad(
    x: torch.Tensor,
    out: torch.Tensor,
    *,
    begin: tuple[int, int],
    value: float = 0.0,
    edge: bool = False,
    tile: Tile | None = None,
) -> Launch:
    """One launch; `begin` is (top, left), and the shape of `out` says how much follows at the end."""
    x_n, x_h, x_w, x_c = strides4(x)
    batch, height, width, channels = x.shape
    out_height, out_width = out.shape[1:3]
    check_shape(out, (batch, out_height, out_width, channels), "out")
    out_row = row_stride(out, "out")
    pixels = batch * out_height * out_width
    tile = tile or row_tile(pixels, channels, x.element_size(), target_of(x))
    return Launch(
        "pad",
        _pad,
        (cdiv(pixels, tile.block_m), cdiv(channels, tile.block_n)),
        {
            "x": x,
            "out": out,
            "pixels": pixels,
            "height": height,
            "width": width,
            "out_height": out_height,
            "out_width": out_width,
            "channels": channels,
            "x_n": x_n,
            "x_h": x_h,
            "x_w": x_w,
            "out_row": out_row,
            "top": begin[0],
            "left": begin[1],
            "value": value,
        },
        {
            "X_C": x_c,
            "EDGE": edge,
            "ALIGN": alignment(channels, x_n, x_h, x_w, out_row),
            "BLOCK_M": tile.block_m,
            "BLOCK_N": tile.block_n,
        },
        tile.num_warps,
        tile.num_stages,
    )


def reference(
    x: torch.Tensor, out: torch.Tensor, *, begin: tuple[int, int], value: float = 0.0, edge: bool = False
) -> torch.Tensor:
    """The same in float64; of `out`, only the shape is read."""
    h, w = (torch.arange(out.shape[axis + 1]) - begin[axis] for axis in (0, 1))
    nearest = x.double()[:, h.clamp(0, x.shape[1] - 1)][:, :, w.clamp(0, x.shape[2] - 1)]
    inside = ((h >= 0) & (h < x.shape[1]))[:, None] & ((w >= 0) & (w < x.shape[2]))
    return nearest if edge else torch.where(inside[None, :, :, None], nearest, value)
