"""Elementwise: out = post( combine( act(x * scale + shift), other ) ) where combine is + or *.

x [N, H, W, C] with any strides; scale, shift fp32 [C]; other [N, H, W, C] with any strides, or [N, 1, 1, C] broadcast
over the image; out [N, H, W, C] with dense pixels. With none of the options it is the copy (and cast) into a channel
slice that a concat needs, or the change from NCHW to NHWC.

Bound by bytes: each operand is read once, the result written once.
"""

from __future__ import annotations

import torch

from optgraph.ir.values import IDENTITY, Act
from optgraph.kernels.frame.arguments import Image, Scalar, ours
from optgraph.kernels.frame.ends import Prologue
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.launch import Launch, target_of
from optgraph.kernels.frame.operands import check_shape, row_stride, strides4
from optgraph.kernels.frame.rows import alignment, row_tile
from optgraph.kernels.frame.tile import Tile, cdiv
from optgraph.kernels.frame.work import Read, Work


def elementwise(
    x: torch.Tensor,
    out: torch.Tensor,
    *,
    before: Prologue = Prologue(),
    other: torch.Tensor | None = None,
    combine: str = "add",
    post: Act = IDENTITY,
    tile: Tile | None = None,
) -> Launch:
    """One launch of any pointwise chain of this form; `out` may alias `x` or `other` where the strides are equal."""
    stride_c = strides4(x)[3]
    batch, height, width, channels = x.shape
    check_shape(out, (batch, height, width, channels), "out")
    before.check(channels)
    if combine not in ("add", "mul"):
        raise ValueError(f"combine is {combine!r}, expected 'add' or 'mul'")
    *others, other_c = (0, 0, 0, 0) if other is None else _strides(other, tuple(x.shape))

    pixels = batch * height * width
    tile = tile or row_tile(pixels, channels, x.element_size(), target_of(x))
    image, out_row = Image.of(x), row_stride(out, "out")
    return Launch(
        "elementwise",
        ours("elementwise"),
        (cdiv(pixels, tile.block_m), cdiv(channels, tile.block_n)),
        {
            "x": x,
            "out": out,
            "pre": before.argument(),
            "other": other,
            "other_strides": tuple(others),
            "post": Scalar.of(post),
            "image": image,
            "pixels": pixels,
            "channels": channels,
            "out_row": out_row,
        },
        {
            "STRIDE_C": stride_c,
            "OTHER_C": other_c,
            "MULTIPLY": combine == "mul",
            "ALIGN": alignment(channels, *image.strides, *others, out_row),
            **tile.blocks(),
        },
        tile,
        Work((Read(x), *([] if other is None else [Read(other)])), (out,), before.vectors),
    )


def _strides(other: torch.Tensor, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Strides of the second operand, as large as the first or one pixel for all of an image."""
    n, h, w, c = strides4(other)
    if tuple(other.shape) == (shape[0], 1, 1, shape[3]):
        return n, 0, 0, c
    check_shape(other, shape, "other")
    return n, h, w, c


def reference(
    x: torch.Tensor,
    out: torch.Tensor,
    *,
    before: Prologue = Prologue(),
    other: torch.Tensor | None = None,
    combine: str = "add",
    post: Act = IDENTITY,
) -> torch.Tensor:
    """The same in float64; `out` is not read."""
    y = before.reference(x)
    if other is not None:
        y = y * other.double() if combine == "mul" else y + other.double()
    return post.apply(y)


ELEMENTWISE = Kernel(elementwise, reference)
