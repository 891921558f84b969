"""Softmax over the last axis of x [M, N]: exp(x[m, n] - max(x[m, :])) / sum over j of exp(x[m, j] - max(x[m, :])).

x with any strides; the last axis of out [M, N] is contiguous.

Bound by bytes. A row that fits a block is read once; a longer one three times (maximum, sum, result), the last two out
of cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch

from optgraph.base.devices import Target
from optgraph.kernels.frame.arguments import ours
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.launch import Launch, target_of
from optgraph.kernels.frame.operands import check_shape, row_stride2, strides2
from optgraph.kernels.frame.rows import alignment
from optgraph.kernels.frame.sample import Sample, image
from optgraph.kernels.frame.tile import Tile, cdiv, ceil_pow2
from optgraph.kernels.frame.work import Read, Work

_ROW_BLOCK = 4096  # the longest row kept in registers


def softmax(x: torch.Tensor, out: torch.Tensor, *, tile: Tile | None = None) -> Launch:
    """One launch."""
    x_row, stride_n = strides2(x, "x")
    rows, columns = x.shape
    check_shape(out, (rows, columns), "out")
    out_row = row_stride2(out, "out")
    tile = tile or softmax_tile(rows, columns, target_of(x))
    return Launch(
        "softmax",
        ours("softmax"),
        (cdiv(rows, tile.block_m),),
        {"x": x, "out": out, "rows": rows, "columns": columns, "x_row": x_row, "out_row": out_row},
        {
            "STRIDE_N": stride_n,
            "ONE_BLOCK": columns <= tile.block_n,
            "ALIGN": alignment(columns, x_row, out_row),
            **tile.blocks(),
        },
        tile,
        Work((Read(x),), (out,), terms=columns),
    )


def softmax_tile(rows: int, columns: int, target: Target) -> Tile:
    """One row a program on a GPU; as many as fit a block in the interpreter."""
    block_n = min(ceil_pow2(columns), _ROW_BLOCK)
    if target.interpreted:
        return Tile(min(ceil_pow2(rows), 2**18 // block_n), block_n, num_stages=1)
    return Tile(1, block_n, num_warps=4 if block_n <= 1024 else 8, num_stages=1)


def reference(x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """The same in float64; `out` is not read."""
    return x.double().softmax(-1)


def samples() -> Iterator[tuple[str, Sample]]:
    """Odd sizes, in one block and in several."""
    for (m, n), tile in product([(1, 10), (3, 73), (5, 129), (2, 1)], [None, Tile(1, 16), Tile(4, 64), Tile(2, 256)]):
        yield "odd sizes", Sample({"x": image(m, n, beside=2), "out": image(m, n, beside=8), "tile": tile})
    yield "a long row", Sample({"x": image(2, 65536), "out": image(2, 65536, beside=8)})


SOFTMAX = Kernel(softmax, reference, samples)
