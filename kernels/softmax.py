"""Softmax over the last axis of x [N, H, W, C]: exp(x[c] - max(x)) / sum over j of exp(x[j] - max(x)), or
its logarithm.

x and out with any strides: the last axis is that of the softmax, wherever it lies in memory.

Bound by bytes. A line that fits a block is read once; a longer one three times (maximum, sum, result), the last two out
of cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch

from optgraph.kernels.frame.arguments import ours
from optgraph.kernels.frame.ends import check_floats
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.launch import Launch, target_of
from optgraph.kernels.frame.lines import Lines
from optgraph.kernels.frame.operands import check_shape
from optgraph.kernels.frame.sample import Sample, image
from optgraph.kernels.frame.tile import Tile
from optgraph.kernels.frame.work import Read, Work


def softmax(x: torch.Tensor, out: torch.Tensor, *, log: bool = False, tile: Tile | None = None) -> Launch:
    """One launch; log: of the logarithm."""
    check_floats(x=x)
    lines = Lines.of(x, out)
    check_shape(out, tuple(x.shape), "out")
    tile = tile or lines.tile(target_of(x))
    return Launch(
        "softmax",
        ours("softmax"),
        lines.grid(x.shape[0], tile),
        {"x": x, "out": out, "lines": lines},
        {"LOG": log, "ONE_BLOCK": lines.columns <= tile.block_n, **lines.constants(), **tile.blocks()},
        tile,
        Work((Read(x),), (out,), terms=lines.columns),
    )


def reference(x: torch.Tensor, out: torch.Tensor, *, log: bool = False) -> torch.Tensor:
    """The same in float64; `out` is not read."""
    return x.double().log_softmax(-1) if log else x.double().softmax(-1)


def samples() -> Iterator[tuple[str, Sample]]:
    """Odd sizes, in one block and in several; lines whose elements lie apart."""
    tiles = None, Tile(1, 16), Tile(4, 64), Tile(2, 256)
    for (m, n), tile in product([(1, 10), (3, 73), (5, 129), (2, 1)], tiles):
        x, out = image(1, 1, m, n, beside=2), image(1, 1, m, n, beside=8)
        yield "odd sizes", Sample({"x": x, "out": out, "tile": tile})
    for log, tile in product([False, True], [None, Tile(4, 16)]):
        yield "pixels", Sample({"x": image(2, 3, 5, 37), "out": image(2, 3, 5, 37, beside=8), "log": log, "tile": tile})
        x, out = image(2, 19, 3, 16), image(2, 19, 3, 16)
        apart = {"x": x.permute(0, 2, 3, 1), "out": out.permute(0, 2, 3, 1)}
        yield "elements apart", Sample({**apart, "log": log, "tile": tile})
    x, out = image(2, 9, 5, 7), image(2, 5, 7, 9)
    yield "another order", Sample({"x": x.permute(0, 2, 3, 1), "out": out})
    yield "a long line", Sample({"x": image(1, 1, 2, 65536), "out": image(1, 1, 2, 65536, beside=8)})


SOFTMAX = Kernel(softmax, reference, samples)
