"""Padding of height and width: out[n, h, w, c] = x[n, h - top, w - left, c], or `value` outside the image.

With `edge`, the nearest pixel of the image instead of `value`. Negative padding crops. For what no window absorbs:
zeros before a max pool, an edge before a convolution.
x [N, H, W, C] with any strides, out [N, Ho, Wo, C] with dense pixels: a concat slice is fine.

Bound by bytes.
"""

from __future__ import annotations

import torch

from optgraph.kernels.frame.arguments import Image, ours
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.launch import Launch, target_of
from optgraph.kernels.frame.operands import check_shape, row_stride, strides4
from optgraph.kernels.frame.rows import alignment, row_tile
from optgraph.kernels.frame.tile import Tile, cdiv
from optgraph.kernels.frame.work import Read, Work


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
    stride_c = strides4(x)[3]
    batch, channels = x.shape[0], x.shape[3]
    height, width = out.shape[1:3]
    check_shape(out, (batch, height, width, channels), "out")
    pixels = batch * height * width
    tile = tile or row_tile(pixels, channels, x.element_size(), target_of(x))
    image, out_row = Image.of(x), row_stride(out, "out")
    return Launch(
        "pad",
        ours("pad"),
        (cdiv(pixels, tile.block_m), cdiv(channels, tile.block_n)),
        {
            "x": x,
            "out": out,
            "image": image,
            "pixels": pixels,
            "out_height": height,
            "out_width": width,
            "channels": channels,
            "out_row": out_row,
            "top": begin[0],
            "left": begin[1],
            "value": value,
        },
        {
            "STRIDE_C": stride_c,
            "EDGE": edge,
            "ALIGN": alignment(channels, *image.strides, out_row),
            **tile.blocks(),
        },
        tile,
        Work((Read(x),), (out,)),
    )


def reference(
    x: torch.Tensor, out: torch.Tensor, *, begin: tuple[int, int], value: float = 0.0, edge: bool = False
) -> torch.Tensor:
    """The same in float64; of `out`, only the shape is read."""
    h, w = (torch.arange(out.shape[axis + 1]) - begin[axis] for axis in (0, 1))
    nearest = x.double()[:, h.clamp(0, x.shape[1] - 1)][:, :, w.clamp(0, x.shape[2] - 1)]
    inside = ((h >= 0) & (h < x.shape[1]))[:, None] & ((w >= 0) & (w < x.shape[2]))
    return nearest if edge else torch.where(inside[None, :, :, None], nearest, value)


PAD = Kernel(pad, reference)
