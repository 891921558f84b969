"""Lines: tensors [N, H, W, C] of any strides, seen as N*H*W lines of C elements each, which a kernel reduces.

A program takes neighbouring lines of one row (n, h). Either the lines or their elements should be neighbours in memory.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from optgraph.base.devices import Target
from optgraph.kernels.frame.operands import strides4
from optgraph.kernels.frame.rows import alignment
from optgraph.kernels.frame.tile import Tile, cdiv, ceil_pow2

_LINE = 4096  # the longest line kept in registers


class Lines(NamedTuple):
    """Sizes of x [N, H, W, C], and its strides and those of what is made of it, in elements."""

    height: int
    width: int
    columns: int
    x_n: int
    x_h: int
    x_w: int
    x_c: int
    out_n: int
    out_h: int
    out_w: int
    out_c: int

    @classmethod
    def of(cls, x: torch.Tensor, out: torch.Tensor) -> Lines:
        (n, h, w, c), (out_n, out_h, out_w, out_c) = strides4(x), strides4(out)
        return cls(x.shape[1], x.shape[2], x.shape[3], n, h, w, c, out_n, out_h, out_w, out_c)

    def constants(self, whole: bool = True) -> dict[str, int | bool]:
        """Which strides are 1, and what divides the others and the sizes along those. whole: what is made of x has
        lines too, and is stored as x is loaded."""
        sides = [self[3:7], self[7:11]] if whole else [self[3:7]]
        unit_w, unit_c = (all(side[axis] == 1 for side in sides) for axis in (2, 3))
        sizes = (self.width if unit_w else 0, self.columns if unit_c else 0)
        strides = [s for n, h, w, c in sides for s in (n, h, 0 if unit_w else w, 0 if unit_c else c)]
        return {"UNIT_W": unit_w, "UNIT_C": unit_c, "ALIGN": alignment(*sizes, *strides)}

    def grid(self, batch: int, tile: Tile) -> tuple[int]:
        return (batch * self.height * cdiv(self.width, tile.block_m),)

    def tile(self, target: Target) -> Tile:
        """One line a program where its elements are neighbours, else as many neighbouring lines as fill a load. In the
        interpreter as many as fit a block."""
        if target.interpreted:
            block_n = min(ceil_pow2(self.columns), _LINE)
            return Tile(min(ceil_pow2(self.width), 2**18 // block_n), block_n, num_stages=1)
        if self.x_c == 1:
            block_n = min(ceil_pow2(self.columns), _LINE)
            block_m = min(ceil_pow2(self.width), max(1, 512 // block_n))
            return Tile(block_m, block_n, num_warps=4 if block_n <= 1024 else 8, num_stages=1)
        block_m = min(ceil_pow2(self.width), 64)
        return Tile(block_m, min(ceil_pow2(self.columns), 2048 // block_m), num_stages=1)
