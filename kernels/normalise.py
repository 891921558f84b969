"""Normalisation of the last axis of x [N, H, W, C]: (x - mean) / sqrt(variance + epsilon) * scale + shift, mean and
variance (the sum of squares over C, without correction) being those of the line.

x and out with any strides: the last axis is what is normalised, wherever it lies in memory. scale, shift: float32, one
an element of a line, [C] (layer normalisation), or one for each of neighbouring lines, [W] (instance normalisation).

Bound by bytes. A line that fits a block is read once; a longer one three times (mean, variance, result), the last two
out of cache. The variance is of differences from the mean: the mean of squares would lose it where the mean is large.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch

from optgraph.kernels.frame.arguments import ours
from optgraph.kernels.frame.ends import check_floats
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.launch import Launch, target_of
from optgraph.kernels.frame.lines import Lines
from optgraph.kernels.frame.operands import check_shape, check_vector
from optgraph.kernels.frame.sample import Sample, image, vector
from optgraph.kernels.frame.tile import Tile
from optgraph.kernels.frame.view import View
from optgraph.kernels.frame.work import Read, Work


def normalise(
    x: torch.Tensor,
    out: torch.Tensor,
    *,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
    by_line: bool = False,
    epsilon: float = 1e-5,
    tile: Tile | None = None,
) -> Launch:
    """One launch. by_line: scale and shift have a number a line, not one an element."""
    check_floats(x=x)
    lines = Lines.of(x, out)
    check_shape(out, tuple(x.shape), "out")
    for name, operand in (("scale", scale), ("shift", shift)):
        check_vector(operand, lines.width if by_line else lines.columns, name)
    tile = tile or lines.tile(target_of(x))
    return Launch(
        "normalise",
        ours("normalise"),
        lines.grid(x.shape[0], tile),
        {"x": x, "out": out, "lines": lines, "scale": scale, "shift": shift, "epsilon": epsilon},
        {"BY_LINE": by_line, "ONE_BLOCK": lines.columns <= tile.block_n, **lines.constants(), **tile.blocks()},
        tile,
        Work((Read(x),), (out,), {"scale": scale, "shift": shift}, terms=lines.columns),
    )


def reference(
    x: torch.Tensor,
    out: torch.Tensor,
    *,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
    by_line: bool = False,
    epsilon: float = 1e-5,
) -> torch.Tensor:
    """The same in float64; `out` is not read."""
    y = x.double()
    y = (y - y.mean(-1, keepdim=True)) / (y.var(-1, correction=0, keepdim=True) + epsilon).sqrt()
    column = (-1, 1) if by_line else (-1,)
    y = y if scale is None else y * scale.double().view(column)
    return y if shift is None else y + shift.double().view(column)


def samples() -> Iterator[tuple[str, Sample]]:
    """Odd sizes, in one block and in several; both kinds of scale and shift; lines whose elements lie apart."""
    for (m, n), tile in product([(1, 10), (3, 73), (5, 129), (2, 1)], [None, Tile(1, 16), Tile(4, 64), Tile(2, 256)]):
        yield "odd sizes", sample(image(1, 1, m, n, beside=2), image(1, 1, m, n, beside=8), tile=tile)
    for by_line, tile in product([False, True], [None, Tile(4, 16)]):
        yield "pixels", sample(image(2, 3, 5, 37), image(2, 3, 5, 37, beside=8), by_line=by_line, tile=tile)
        x, out = (image(2, 19, 3, 16).permute(0, 2, 3, 1) for _ in range(2))
        yield "elements apart", sample(x, out, by_line=by_line, tile=tile)
    x, out = image(2, 9, 5, 7), image(2, 5, 7, 9)
    yield "another order", sample(x.permute(0, 2, 3, 1), out, epsilon=0.5)
    for without in (["scale"], ["shift"], ["scale", "shift"]):
        vectors = dict.fromkeys(without)
        yield "no scale or shift", sample(image(1, 1, 3, 24), image(1, 1, 3, 24), by_line=False, **vectors)
    yield "a long line", sample(image(1, 1, 2, 20001), image(1, 1, 2, 20001, beside=8), by_line=True)


def sample(x: View, out: View, *, by_line: bool = False, **arguments: Any) -> Sample:
    """A call with scale and shift."""
    size = x.shape[2] if by_line else x.shape[3]
    operands = {"x": x, "out": out, "scale": vector(size), "shift": vector(size), "by_line": by_line}
    return Sample(operands | arguments)


NORMALISE = Kernel(normalise, reference, samples)
