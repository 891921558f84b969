"""Products of matrices, one for each of two leading axes: out[g, h] = x[g, h] @ y[g, h].

x [G, H, M, K], y [G, H, K, N] and out [G, H, M, N], all with any strides: a transposed operand, heads that lie between
the elements of a row, and a matrix for all of an axis (of size 1, or a stride of 0) are read where they are.

Bound by bytes where one of M, N and K is small, as in attention with few channels a head; else by arithmetic. Loads are
16 bytes wide along an axis whose stride is 1, in any operand; elements that lie apart are fetched one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import torch

from optgraph.base.devices import Target
from optgraph.kernels.frame.arguments import ours
from optgraph.kernels.frame.choice import choose
from optgraph.kernels.frame.ends import check_floats
from optgraph.kernels.frame.gemm import Gemm
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.launch import Launch, target_of
from optgraph.kernels.frame.operands import check_shape
from optgraph.kernels.frame.rows import alignment
from optgraph.kernels.frame.sample import Sample, image
from optgraph.kernels.frame.tile import Tile, cdiv, planned_batch
from optgraph.kernels.frame.view import View
from optgraph.kernels.frame.work import Read, Work


@dataclass(frozen=True)
class Strided(Gemm):
    """scattered: an operand has no axis of stride 1, so that each element needs an address of its own in registers."""

    scattered: bool = False

    def candidates(self, target: Target) -> list[Tile]:
        found = super().candidates(target)
        if not self.scattered or target.interpreted:
            return found
        small = [tile for tile in found if tile.block_m * tile.block_n <= 64 * 64]
        return [replace(tile, block_k=min(tile.block_k, 64 // self.itemsize)) for tile in small]


def matmul(
    x: torch.Tensor, y: torch.Tensor, out: torch.Tensor, *, precision: str = "ieee", tile: Tile | None = None
) -> Launch:
    """One launch of all products."""
    check_floats(x=x, y=y)
    for name, t in (("x", x), ("y", y), ("out", out)):
        if t.dim() != 4:
            raise ValueError(f"{name} has shape {tuple(t.shape)}, expected 4 dimensions")
    (batch, inner, rows, columns), depth, target = out.shape, x.shape[3], target_of(x)
    x, y = (
        t.expand(*(to if size == 1 else size for size, to in zip(t.shape[:2], (batch, inner), strict=True)), -1, -1)
        for t in (x, y)
    )
    check_shape(x, (batch, inner, rows, depth), "x")
    check_shape(y, (batch, inner, depth, columns), "y")
    units = [[stride == 1 and size > 1 for stride, size in zip(t.stride(), t.shape, strict=True)] for t in (x, y, out)]
    (x_m, x_k), (y_k, y_n), (out_m, out_n) = (found[2:] for found in units)
    loads = [rows * x_m, depth * (x_k or y_k), columns * y_n, *_steps(x), *_steps(y)]
    stores = [rows * out_m, columns * out_n, *_steps(out)]
    itemsize = max(x.element_size(), y.element_size())
    scattered = not ((x_m or x_k) and (y_k or y_n))
    extent = (1, planned_batch(batch, target) * inner * rows, 1)
    problem = Strided(extent, (columns,), depth, itemsize, splittable=False, scattered=scattered)
    tile = tile or choose(problem, target)
    blocks = cdiv(rows, tile.block_m) * cdiv(columns, tile.block_n)
    return Launch(
        "matmul",
        ours("matmul"),
        (batch * inner * blocks,),
        {
            "x": x,
            "y": y,
            "out": out,
            "size": (inner, rows, columns, depth),
            **{f"{name}_strides": t.stride() for name, t in (("x", x), ("y", y), ("out", out))},
        },
        {
            "X_M": x_m,
            "X_K": x_k,
            "Y_K": y_k,
            "Y_N": y_n,
            "OUT_M": out_m,
            "OUT_N": out_n,
            "PRECISION": precision,
            "ALIGN": alignment(*loads),
            "ALIGN_OUT": alignment(*stores),
            **tile.blocks("MNK"),
        },
        tile,
        Work((Read(x), Read(y)), (out,), program=problem.program(tile, residual=False), terms=depth),
        problem,
    )


def _steps(t: torch.Tensor) -> list[int]:
    """The strides that are multiplied with: all but those of 1 within a matrix."""
    steps = zip(t.stride(), t.shape, (False, False, True, True), strict=True)
    return [stride for stride, size, within in steps if size > 1 and not (within and stride == 1)]


def reference(x: torch.Tensor, y: torch.Tensor, out: torch.Tensor, *, precision: str = "ieee") -> torch.Tensor:
    """The same in float64; `out` is not read."""
    return x.double() @ y.double()


def samples() -> Iterator[tuple[str, Sample]]:
    """Odd sizes, operands of every order, a matrix for many."""
    sizes = (37, 19, 73), (1, 5, 130), (16, 64, 32), (3, 1, 1), (50, 50, 8)
    for (m, n, k), tile in product(sizes, [None, Tile(16, 32, 16)]):
        yield "odd sizes", sample(image(2, 1, m, k, beside=2), image(2, 1, k, n), image(2, 1, m, n, beside=8), tile)
    m, n, k = 8, 24, 16
    ways = [
        (image(1, 2, i, j), image(1, 2, j, i).permute(0, 1, 3, 2), image(1, i, j, 2).permute(0, 3, 1, 2))
        for i, j in ((m, k), (k, n), (m, n))
    ]
    for i, j in product(range(3), repeat=2):  # each two of them meet once
        yield "orders", sample(ways[0][i], ways[1][j], ways[2][(i + j) % 3])
    yield "one for all", sample(image(2, 3, m, k), image(1, 1, k, n), image(2, 3, m, n))
    for lead in ((1, 3), (2, 1)):
        yield "one for some", sample(image(*lead, m, k), image(2, 3, k, n), image(2, 3, m, n))
    yield "float32 rows", sample(image(1, 2, 5, 20, dtype="float32"), image(1, 2, 20, 7), image(1, 2, 5, 7))


def sample(x: View, y: View, out: View, tile: Tile | None = None) -> Sample:
    """A call on these."""
    return Sample({"x": x, "y": y, "out": out, "precision": "ieee", "tile": tile})


MATMUL = Kernel(matmul, reference, samples)
