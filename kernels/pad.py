"""Padding of height and width: out[n, h, w, c] = x[n, h - top, w - left, c], or `value` outside the image.

With `edge`, the nearest pixel of the image instead of `value`. Negative padding crops. For what no window absorbs:
zeros before a max pool, an edge before a convolution.
x [N, H, W, C] with any strides, out [N, Ho, Wo, C] with dense pixels: a concat slice is fine.

Bound by bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch

from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.launch import Launch
from optgraph.kernels.frame.operands import check_shape, strides4
from optgraph.kernels.frame.rowwise import rowwise
from optgraph.kernels.frame.sample import Sample, image
from optgraph.kernels.frame.tile import Tile
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
    strides4(x)
    check_shape(out, (x.shape[0], *out.shape[1:3], x.shape[3]), "out")
    arguments = {"top": begin[0], "left": begin[1], "value": value}
    return rowwise("pad", {"x": x, "out": out}, arguments, {"EDGE": edge}, Work((Read(x),), (out,)), tile)


def reference(
    x: torch.Tensor, out: torch.Tensor, *, begin: tuple[int, int], value: float = 0.0, edge: bool = False
) -> torch.Tensor:
    """The same in float64; of `out`, only the shape is read."""
    h, w = (torch.arange(out.shape[axis + 1]) - begin[axis] for axis in (0, 1))
    nearest = x.double()[:, h.clamp(0, x.shape[1] - 1)][:, :, w.clamp(0, x.shape[2] - 1)]
    inside = ((h >= 0) & (h < x.shape[1]))[:, None] & ((w >= 0) & (w < x.shape[2]))
    return nearest if edge else torch.where(inside[None, :, :, None], nearest, value)


def samples() -> Iterator[tuple[str, Sample]]:
    """Pads and crops of odd sizes."""
    all_pads = (1, 1, 1, 1), (0, 3, 2, 0), (-1, 2, 0, -2)
    tiles = None, Tile(32, 16), Tile(16, 64)
    for shape, edge, pads, tile in product([(1, 7, 9, 37), (3, 5, 4, 3)], [False, True], all_pads, tiles):
        (n, h, w, c), (top, left, bottom, right) = shape, pads
        x, out = image(*shape, planes=tile is None), image(n, h + top + bottom, w + left + right, c, beside=8)
        yield "pads", Sample({"x": x, "out": out, "begin": pads[:2], "value": 0.5, "edge": edge, "tile": tile})


PAD = Kernel(pad, reference, samples)
