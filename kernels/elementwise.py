# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Elementwise: out = post( combine( act(x * scale + shift), other ) ) where combine is + or *.

x [N, H, W, C] with any strides; scale, shift fp32 [C]; other [N, H, W, C] with any strides, or [N, 1, 1, C] broadcast
over the image; out [N, H, W, C] with dense pixels. With none of the options it is the copy (and cast) into a channel
slice that a concat needs, or the change from NCHW to NHWC.

Bound by bytes: each operand is read once, the result written once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from optgraph.ir.values import IDENTITY, Act
from optgraph.kernels.frame.choice import Tile, cdiv
from optgraph.kernels.frame.launch import Launch, target_of
from optgraph.kernels.frame.operands import check_shape, check_vector, row_stride, strides4
from optgraph.kernels.jit.activations import activation, apply
from optgraph.kernels.jit.addressing import aligned, alignment, pixel_offset, row_tile
from optgraph.kernels.jit.epilogue import prologue, reference_prologue


# fmt: off
@triton.jit
def _elementwise(
    x, scale, shift, other, out,
    pixels, height, width, channels,  # N*H*W, H, W, C
    x_n, x_h, x_w, X_C: tl.constexpr, other_n, other_h, other_w, OTHER_C: tl.constexpr, out_row,
    act_a, act_b, post_a, post_b,
    ACT: tl.constexpr, POST: tl.constexpr, MULTIPLY: tl.constexpr,
    ALIGN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    pixel = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)  # [BLOCK_M]
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)  # [BLOCK_N]
    c_mask = channel < aligned(channels, ALIGN)
    mask = (pixel < pixels)[:, None] & c_mask[None, :]  # [BLOCK_M, BLOCK_N]

    x_pixel = pixel_offset(pixel, height, width, aligned(x_n, ALIGN), aligned(x_h, ALIGN), aligned(x_w, ALIGN))
    y = tl.load(x + x_pixel[:, None] + (channel * X_C)[None, :], mask, other=0.0)
    y = prologue(y, scale, shift, channel, c_mask, act_a, act_b, ACT)
    if other is not None:
        other_pixel = pixel_offset(
            pixel, height, width, aligned(other_n, ALIGN), aligned(other_h, ALIGN), aligned(other_w, ALIGN)
        )
        z = tl.load(other + other_pixel[:, None] + (channel * OTHER_C)[None, :], mask, other=0.0).to(tl.float32)
        y = y * z if MULTIPLY else y + z
    y = POST(y, post_a, post_b)
    out_pixel = pixel.to(tl.int64) * aligned(out_row, ALIGN)
    tl.store(out + out_pixel[:, None] + channel[None, :], y.to(out.dtype.element_ty), mask)
# fmt: on


def elementwise(
    x: torch.Tensor,
    out: torch.Tensor,
    *,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
    act: Act = IDENTITY,
    other: torch.Tensor | None = None,
    combine: str = "add",
    post: Act = IDENTITY,
    tile: Tile | None = None,
) -> Launch:
    """One launch of any pointwise chain of this form; `out` may alias `x` or `other` where the strides are equal."""
    x_n, x_h, x_w, x_c = strides4(x)
    batch, height, width, channels = x.shape
    check_shape(out, (batch, height, width, channels), "out")
    out_row = row_stride(out, "out")
    check_vector(scale, channels, "scale")
    check_vector(shift, channels, "shift")
    if combine not in ("add", "mul"):
        raise ValueError(f"combine is {combine!r}, expected 'add' or 'mul'")
    other_n = other_h = other_w = other_c = 0
    if other is not None:
        other_n, other_h, other_w, other_c = strides4(other)
        if tuple(other.shape) == (batch, 1, 1, channels):
            other_h = other_w = 0
        else:
            check_shape(other, (batch, height, width, channels), "other")

    pixels = batch * height * width
    tile = tile or row_tile(pixels, channels, x.element_size(), target_of(x))
    return Launch(
        "elementwise",
        _elementwise,
        (cdiv(pixels, tile.block_m), cdiv(channels, tile.block_n)),
        {
            "x": x,
            "scale": scale,
            "shift": shift,
            "other": other,
            "out": out,
            "pixels": pixels,
            "height": height,
            "width": width,
            "channels": channels,
            "x_n": x_n,
            "x_h": x_h,
            "x_w": x_w,
            "other_n": other_n,
            "other_h": other_h,
            "other_w": other_w,
            "out_row": out_row,
            "act_a": act.a,
            "act_b": act.b,
            "post_a": post.a,
            "post_b": post.b,
        },
        {
            "X_C": x_c,
            "OTHER_C": other_c,
            "ACT": activation(act),
            "POST": activation(post),
            "MULTIPLY": combine == "mul",
            "ALIGN": alignment(channels, x_n, x_h, x_w, other_n, other_h, other_w, out_row),
            "BLOCK_M": tile.block_m,
            "BLOCK_N": tile.block_n,
        },
        tile.num_warps,
        tile.num_stages,
    )


def reference(
    x: torch.Tensor,
    out: torch.Tensor,
    *,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
    act: Act = IDENTITY,
    other: torch.Tensor | None = None,
    combine: str = "add",
    post: Act = IDENTITY,
) -> torch.Tensor:
    """The same in float64; `out` is not read."""
    y = reference_prologue(x, scale, shift, act)
    if other is not None:
        y = y * other.double() if combine == "mul" else y + other.double()
    return apply(y, post)
