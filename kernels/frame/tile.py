"""Tiles, and what they are chosen for: data, and a few sums on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from optgraph.base.devices import Target

MAX_NUMEL = 2**20  # Triton's limit on the elements of one block
PLANNED_BATCHES = (1, 8, 64)

Box = tuple[int, int, int]


@dataclass(frozen=True)
class Tile:
    """Block sizes of one launch: powers of two; those of a tl.dot are at least 16.

    box: the pixels (images, rows, columns) that one load of the copy engine (TMA) fetches, block_m in all; None where
    every pixel is addressed by itself. splits: programs that share one tile's depth (see split_k). accumulators: blocks
    of columns that one program computes side by side, so that what they share is computed once. producers: warps beside
    num_warps that make the product's operand (see jit/separable_specialised); 0 where no warp is specialised. rows: of
    the output, one below the other, that one program computes for each of its block_m columns, so that what their
    windows share is loaded once. streamed: every step of a program has a stage of its own (see jit/conv2d_streamed.py).
    """

    block_m: int
    block_n: int
    block_k: int = 32
    num_warps: int = 4
    num_stages: int = 3
    box: Box | None = None
    splits: int = 1
    accumulators: int = 1
    producers: int = 0
    rows: int = 1
    streamed: bool = False

    @property
    def columns(self) -> int:
        return self.block_n * self.accumulators

    def blocks(self, axes: str = "MN") -> dict[str, int]:
        """A kernel's constants BLOCK_M, BLOCK_N, BLOCK_K."""
        return {f"BLOCK_{axis}": getattr(self, f"block_{axis.lower()}") for axis in axes}


@dataclass(frozen=True)
class Problem:
    """What the tile of a launch depends on. A kernel of one's own subclasses it, with fields that tell problems apart:
    `optgraph tune` measures the candidates of each, and keeps the fastest under these fields."""

    def candidates(self, target: Target) -> list[Tile]:
        """Every tile that such a launch may have on `target`, that of least estimated cost first."""
        raise NotImplementedError


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


def ceil_pow2(x: int) -> int:
    return 1 << max(0, x - 1).bit_length()


def padding_blocks(size: int, low: int, high: int) -> list[int]:
    """Powers of two from `low` to the first that covers `size`, at most `high`."""
    blocks = [low]
    while blocks[-1] < min(size, high) and blocks[-1] * 2 <= high:
        blocks.append(blocks[-1] * 2)
    return blocks


def blocks_along(extent: Sequence[int], block: Sequence[int]) -> int:
    """How many blocks cover the extent."""
    return prod(cdiv(size, step) for size, step in zip(extent, block, strict=True))


def planned_batch(batch: int, target: Target) -> int:
    """The batch that tiles are chosen for: on a GPU 1, 8 or 64, so that a net compiled for these serves all sizes."""
    return batch if target.interpreted else nearest_planned(batch)


def nearest_planned(batch: int) -> int:
    """1, 8 or 64, whichever is the fewest times off."""
    return min(PLANNED_BATCHES, key=lambda planned: max(batch, planned) / min(batch, planned))
