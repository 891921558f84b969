"""Padding: out[n, h, w, c] = x[n, h - top, w - left, c - front], or `value` outside of x.

With `edge`, the nearest element of x instead of `value`. Negative padding crops. For what no window absorbs: zeros
before a max pool, an edge before a convolution, channels that a shortcut has too few of.
x [N, H, W, C] with any strides, out [N, Ho, Wo, Co] with dense pixels: a concat slice is fine.

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
    begin: tuple[int, int, int],
    value: float = 0.0,
    edge: bool = False,
    tile: Tile | None = None,
) -> Launch:
    """One launch; `begin` is (top, left, front), and the shape of `out` says how much follows at the end."""
    strides4(x)
    check_shape(out, (x.shape[0], *out.shape[1:4]), "out")
    names = "top", "left", "front", "value", "channels"
    arguments = dict(zip(names, (*begin, value, x.shape[3]), strict=True))
    strides = (begin[2], x.shape[3])  # where the channels of x begin and end among those of out
    work = Work((Read(x),), (out,))
    return rowwise("pad", {"x": x, "out": out}, arguments, {"EDGE": edge}, work, tile, strides=strides)


def reference(
    x: torch.Tensor, out: torch.Tensor, *, begin: tuple[int, int, int], value: float = 0.0, edge: bool = False
) -> torch.Tensor:
    """The same in float64; of `out`, only the shape is read."""
    y, inside = x.double(), torch.ones(())
    for axis, before in enumerate(begin, start=1):
        at = torch.arange(out.shape[axis]) - before
        within = (at >= 0) & (at < x.shape[axis])
        inside = inside * within.reshape([-1 if i == axis else 1 for i in range(4)])
        y = y.index_select(axis, at.clamp(0, x.shape[axis] - 1))
    return y if edge else torch.where(inside.bool(), y, value)


def samples() -> Iterator[tuple[str, Sample]]:
    """Pads and crops of odd sizes."""
    all_pads = (1, 1, 0, 1, 1, 0), (0, 3, 0, 2, 0, 0), (-1, 2, 0, 0, -2, 0)
    tiles = None, Tile(32, 16), Tile(16, 64)
    for shape, edge, pads, tile in product([(1, 7, 9, 37), (3, 5, 4, 3)], [False, True], all_pads, tiles):
        yield "pads", _sample(shape, pads, edge, tile)
    for pads, edge in product([(0, 0, 0, 0, 0, 13), (1, 0, 8, 0, 2, 16), (0, 1, -5, 1, 0, 3)], [False, True]):
        yield "channels", _sample((2, 3, 5, 24), pads, edge, None)
    x, out = image(2, 5, 7, 37, dtype="int8"), image(2, 7, 8, 37, dtype="int8", beside=16)
    yield "int8", Sample({"x": x, "out": out, "begin": (1, 1, 0), "value": -7.0})


def _sample(shape: tuple[int, int, int, int], pads: tuple[int, ...], edge: bool, tile: Tile | None) -> Sample:
    made = [size + before + after for size, before, after in zip(shape[1:], pads[:3], pads[3:], strict=True)]
    x, out = image(*shape, planes=tile is None), image(shape[0], *made, beside=8)
    return Sample({"x": x, "out": out, "begin": pads[:3], "value": 0.5, "edge": edge, "tile": tile})


PAD = Kernel(pad, reference, samples)
