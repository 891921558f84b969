"""Tiles of the convolution whose blocks are all under way at once: which there are, and what they cost; pure functions.

See `jit/conv2d_streamed.py`. A program has a stage of shared memory for every step of its share of the depth, so that
it waits once for the first and for nothing else. That is for maps of few pixels, where one program's chain binds and
not what all of them together take.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import product
from math import prod
from typing import NamedTuple

from optgraph.base.devices import SM_90, Target
from optgraph.ir.values import Window
from optgraph.kernels.frame.tile import Box, Tile, blocks_along, cdiv, ceil_pow2
from optgraph.kernels.frame.work import Program

SHIFT = 19  # bits behind the point of an inverse
ROWS = 64  # pixels of a program: wgmma wants as many a warpgroup
_COLUMNS = (32, 64)
_BLOCK_K = 64  # channels of a step, 128 bytes
_SPLITS = 8  # at most
_ROUNDS = 2  # programs of an SM, at most
_BESIDE = 1024  # bytes of shared memory for mbarriers
# By reading machine code: clocks up to the first product, and of these for each stage; from the last product to the sum
# of those who share it.
_START, _STAGE, _JOIN = 600.0, 75.0, 600.0
_FETCH, _STORE = 32.0, 32.0  # bytes a clock, out of L2 and to it


class Place(NamedTuple):
    """Where a program finds its pixels and its steps: the output as boxes see it, from one kernel row to the next along
    its second axis, and the boxes along its last two axes; channels, and the steps of all taps and of one; the window.
    Inverses are by `inverse`."""

    size0: int
    size1: int
    size2: int
    step: int
    tiles1: int
    tiles2: int
    inverse1: int
    inverse2: int
    channels: int
    steps: int
    blocks: int
    inverse_blocks: int
    kernel_w: int
    inverse_w: int
    top: int
    left: int


def inverse(divisor: int) -> int:
    """What to multiply by, and shift right by SHIFT, instead of dividing."""
    return cdiv(1 << SHIFT, divisor)


def exact(most: int, divisor: int) -> bool:
    """Whether that is right for all numbers up to `most`: it is too much by less than one in 2^SHIFT / divisor."""
    return most * divisor < 1 << SHIFT and most * inverse(divisor) < 1 << 31


def place(extent: Box, tile: Tile, step: int, channels: int, window: Window) -> Place | None:
    """None where there are too many boxes or steps for inverses. extent: the output."""
    assert tile.box
    _, tiles1, tiles2 = (cdiv(size, part) for size, part in zip(extent, tile.box, strict=True))
    blocks, kernel_w = cdiv(channels, tile.block_k), window.kernel[1]
    steps, boxes = window.taps * blocks, blocks_along(extent, tile.box)
    last = tile.splits * tile.num_stages
    if not all(exact(*both) for both in ((boxes, tiles2), (boxes, tiles1), (last, blocks), (last, kernel_w))):
        return None
    row = tiles1, tiles2, inverse(tiles1), inverse(tiles2)
    tap = channels, steps, blocks, inverse(blocks), kernel_w, inverse(kernel_w)
    return Place(*extent, step, *row, *tap, *window.pads[:2])


@lru_cache(maxsize=1024)
def box_of(extent: Box) -> Box:
    """Up to ROWS pixels, by which fewest boxes cover the extent: the smallest of these, with the longest rows."""
    a, b, c = (range(1, min(size, ROWS) + 1) for size in extent)
    fitting = [box for box in product(a, b, c) if prod(box) <= ROWS]
    return min(fitting, key=lambda box: (blocks_along(extent, box), prod(box), -box[2]))


def tiles(extent: Box, columns: tuple[int, ...], channels: int, taps: int, target: Target) -> Iterator[Tile]:
    """Those that fit. columns: of each output."""
    if target != SM_90:
        return
    block_k = max(16, min(_BLOCK_K, ceil_pow2(channels)))
    steps = taps * cdiv(channels, block_k)
    box = box_of(extent)
    for block_n, splits in product(_COLUMNS, range(1, _SPLITS + 1)):
        stages = cdiv(steps, splits)
        tile = Tile(ROWS, block_n, block_k, 4, stages, box, splits, streamed=True)
        made = programs(tile, extent, columns)
        fits = shared_bytes(tile) <= target.device.block_shared // (1 if made <= target.device.sms else _ROUNDS)
        if fits and cdiv(steps, stages) == splits and made <= _ROUNDS * target.device.sms:
            yield tile


def programs(tile: Tile, extent: Box, columns: tuple[int, ...]) -> int:
    assert tile.box
    return blocks_along(extent, tile.box) * sum(cdiv(size, tile.block_n) for size in columns) * tile.splits


def shared_bytes(tile: Tile) -> int:
    streamed = tile.num_stages * (tile.block_m + tile.block_n) * tile.block_k * 2
    summed = tile.splits * tile.block_m * tile.block_n * 4 if tile.splits > 1 else 0  # in the same place, later
    return max(streamed, summed) + _BESIDE


def clocks(tile: Tile) -> float:
    """Estimated for one program."""
    area = tile.block_m * tile.block_n
    fetched = tile.num_stages * (tile.block_m + tile.block_n) * tile.block_k * 2
    joined = _JOIN + area * 4 * (1 + tile.splits) / _STORE if tile.splits > 1 else 0.0
    return _START + _STAGE * tile.num_stages + fetched / _FETCH + joined + area * 2 / _STORE


def program(tile: Tile, residual: bool) -> Program:
    """What one does."""
    area, depth = tile.block_m * tile.block_n, tile.num_stages * tile.block_k
    moved = (tile.block_m + tile.block_n) * depth + area * (2 if residual else 1)
    return Program(moved * 2, 2 * area * depth, 0, clocks=clocks(tile))
