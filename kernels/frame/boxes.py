"""Images as the copy engine sees them, of which a convolution fetches boxes of pixels (TMA; see `conv2d.py`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from optgraph.ir.values import Window
from optgraph.kernels.frame.launch import describable
from optgraph.kernels.frame.tile import Box, Tile
from optgraph.kernels.frame.variant import Block


class Boxes(NamedTuple):
    """The output as boxes see it, and from one kernel row to the next along its second axis."""

    size0: int
    size1: int
    size2: int
    step: int


@dataclass(frozen=True)
class BoxedImage:
    """x as the copy engine sees it: [size0, size1, size2, Cin].

    image: what of the output one image is, along the three axes; batch_axis: where the next image is.
    step: from one kernel row to the next, along axis 1.
    """

    shape: tuple[int, int, int, int]
    strides: tuple[int, int, int, int]
    image: Box
    batch_axis: int
    step: int

    def boxes(self, batch: int) -> Boxes:
        """What the kernel is told of them."""
        a, b, c = (size * batch if axis == self.batch_axis else size for axis, size in enumerate(self.image))
        return Boxes(a, b, c, self.step)

    def operands(self, x: torch.Tensor, weight: torch.Tensor, tile: Tile) -> dict[str, Any]:
        """x by boxes of pixels, and weight, taps * Cin by Cout, by blocks; and as it lies."""
        assert tile.box is not None
        if weight.dtype == torch.int8:
            matrix, block = weight[0].flatten(1), (tile.block_n, tile.block_k)
        else:
            matrix, block = weight.flatten(0, 3), (tile.block_k, tile.block_n)
        return {
            "x": Block(x, self.shape, self.strides, (*tile.box, tile.block_k)),
            "weight": Block(weight, tuple(matrix.shape), (matrix.shape[1], 1), block),
            "ahead": weight,
        }


def boxed_image(x: torch.Tensor, weight: torch.Tensor, window: Window, size: tuple[int, int]) -> BoxedImage | None:
    """None where boxes do not do. Axes that no tap crosses and no padding parts are merged."""
    n, h, w, c = x.shape
    stride_n, stride_h, stride_w, stride_c = x.stride()
    unit = window.stride == window.dilation == (1, 1)
    if weight.shape[0] > 1 or not unit or x.dtype != weight.dtype or stride_c != 1:
        return None
    row = weight[0, 0].numel() if weight.dtype == torch.int8 else weight.shape[4]
    if not describable(x, (stride_n, stride_h, stride_w)) or not describable(weight, (row,)):
        return None
    (kh, kw), (top, left, bottom, right) = window.kernel, window.pads
    height, width = size
    if kw == 1 and left == right == 0 and stride_h == w * stride_w:
        strides = (stride_n, stride_w, stride_w, 1)
        return BoxedImage((n, h * w, 1, c), strides, (1, height * width, 1), batch_axis=0, step=w)
    if kh == 1 and top == bottom == 0 and stride_n == h * stride_h:
        # All images together are one box along axis 0: its stride is that of all of them, not less than the inner ones.
        strides = (n * stride_n, stride_h, stride_w, 1)
        return BoxedImage((1, n * h, w, c), strides, (1, height, width), batch_axis=1, step=1)
    return BoxedImage((n, h, w, c), (stride_n, stride_h, stride_w, 1), (1, height, width), batch_axis=0, step=1)
