"""Local response normalisation: out[c] = x[c] * (bias + alpha/size * sum of x[j]^2) ^ -beta.

The sum is over the `size` channels j around c, (size - 1) // 2 of them below, as far as they exist.
x [N, H, W, C] with any strides, out [N, H, W, C] with dense pixels: a concat slice is fine.

Bound by bytes: a program holds a block of channels and reads their neighbours again, which are in cache.
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
    stride_c = strides4(x)[3]
    batch, height, width, channels = x.shape
    check_shape(out, (batch, height, width, channels), "out")
    pixels = batch * height * width
    # One stage: the neighbours are in cache, and need no prefetch.
    tile = tile or row_tile(pixels, channels, x.element_size(), target_of(x), stages=1)
    image, out_row = Image.of(x), row_stride(out, "out")
    return Launch(
        "lrn",
        ours("lrn"),
        (cdiv(pixels, tile.block_m), cdiv(channels, tile.block_n)),
        {
            "x": x,
            "out": out,
            "image": image,
            "pixels": pixels,
            "channels": channels,
            "out_row": out_row,
            "scale": alpha / size,
            "beta": beta,
            "bias": bias,
        },
        {
            "STRIDE_C": stride_c,
            "SIZE": size,
            "ALIGN": alignment(channels, *image.strides, out_row),
            **tile.blocks(),
        },
        tile,
        Work((Read(x),), (out,)),
    )


def reference(x: torch.Tensor, out: torch.Tensor, *, size: int, alpha: float, beta: float, bias: float) -> torch.Tensor:
    """The same in float64; `out` is not read."""
    x = x.double()
    below, above = (size - 1) // 2, size // 2
    squares = torch.nn.functional.pad(x * x, (below, above)).unfold(-1, size, 1).sum(-1)
    return x * (bias + alpha / size * squares) ** -beta


LRN = Kernel(lrn, reference)
