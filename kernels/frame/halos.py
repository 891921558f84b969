"""Tiles of the warp-specialised convolution: which there are, and what they cost; pure functions.

See `jit/conv2d_specialised.py`. A program's pixels are positions along one axis of the map, each of as many images (or
rows of them) as a block has rows: there are no such blocks in a batch of one, whose tiles stay plain.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from optgraph.base.devices import SM_90, Target
from optgraph.kernels.frame.tile import Box, Tile, blocks_along, cdiv
from optgraph.kernels.frame.work import Program

MOST_TAPS = 7  # along the axis, which are unrolled
MOST_STRIDE = 2
PANEL = 64  # columns of weights that lie side by side, 128 bytes
MARGIN = 1.1  # what it must win by where tiles are chosen, as no GPU has run it
_WARPS = 8
_ROWS = 16 * _WARPS  # of one wgmma by all warps that multiply
# Groups of rows and columns, of which a thread has an accumulator of up to 192 registers; beside a residual of 128.
_BLOCKS = ((2, 192), (3, 128), (4, 64), (3, 64), (2, 128), (1, 128))
_WIDE = 128 * 256
_PICTURES = ((64, 1), (32, 1), (8, 8))  # images of a position, and their rows across the axis
# By the bytes of a row, of channels that are multiplied together: halos and stages in shared memory at once. int8 has a
# choice: fewer waits, or less beyond the last channel.
_RINGS = {64: (3, 8), 128: (2, 4)}
_DEPTHS = {2: (32,), 1: (64, 128)}  # channels of a row, by the bytes of one
_REGISTERS = 24  # of a thread that loads: the least there is, so that the others have 240
_BESIDE = 1024  # bytes of shared memory for mbarriers, and for what Triton hands to its partitions
# Assumptions until a GPU says, as those in `specialised.py`.
_FMA = 4096  # bytes of one operand that tensor cores multiply-add with those of the other, a clock
_TAP = 250.0  # clocks that the barriers and waits of a tap take, under its products if these take longer
_FETCH, _STORE = 48.0, 32.0  # bytes a clock that one SM gets out of L2, and to it
_ROUND_TRIP = 900.0  # clocks from a free stage to a full one, where all SMs fetch
_START, _EPILOGUE = 2500.0, {2: 1000.0, 1: 2500.0}  # clocks; of a group of rows, by its instructions


@dataclass(frozen=True)
class Halo:
    """Of a convolution whose taps along an axis may share what they read: the output as (images, rows, columns), the
    kernel and the stride, as (rows, columns)."""

    extent: Box
    kernel: tuple[int, int]
    stride: tuple[int, int]

    @property
    def down(self) -> bool:
        """Whether the axis goes down the columns, and not along the rows: where the most taps are."""
        return self.kernel[0] > self.kernel[1]

    @property
    def taps(self) -> int:
        """Along the axis."""
        return max(self.kernel)

    @property
    def step(self) -> int:
        """The stride along the axis."""
        return self.stride[0 if self.down else 1]

    @property
    def shareable(self) -> bool:
        """Whether taps share anything, and the kernel is small enough."""
        return max(2, self.step) <= self.taps <= MOST_TAPS and max(self.stride) <= MOST_STRIDE

    def positions(self, tile: Tile) -> int:
        """Along the axis, of a program."""
        assert tile.box
        a, b, c = tile.box
        return tile.block_m // (a * b * c)

    def covered(self, tile: Tile) -> Box:
        """What of the output a program makes, as (images, rows, columns)."""
        assert tile.box
        images, rows, columns = tile.box
        positions = self.positions(tile)
        return (images, rows * positions, columns) if self.down else (images, rows, columns * positions)


def tiles(halo: Halo, columns: int, itemsize: int, plain: bool, target: Target) -> Iterator[Tile]:
    """Those that fit and of which columns fill a panel; only sm_90 has wgmma. plain: without a residual."""
    if target != SM_90 or itemsize not in _DEPTHS or columns < PANEL:
        return
    across = halo.stride[1 if halo.down else 0]
    for (images, rows), (groups, block_n), block_k in product(_PICTURES, _BLOCKS, _DEPTHS[itemsize]):
        if (rows > 1 and across > 1) or block_n >= columns + PANEL or images > 2 * halo.extent[0]:
            continue
        if not plain and groups * _ROWS * block_n > _WIDE:
            continue
        box = (images, 1, rows) if halo.down else (images, rows, 1)
        _, stages = _RINGS[block_k * itemsize]
        tile = Tile(groups * _ROWS, block_n, block_k, _WARPS, stages, box=box, producers=2)
        if shared_bytes(halo, tile, itemsize) <= target.device.block_shared:
            yield tile


def shared_bytes(halo: Halo, tile: Tile, itemsize: int) -> int:
    """At most."""
    positions = halo.positions(tile)
    rows = (positions + (halo.taps - 1) // halo.step) * tile.block_m // positions
    bytes_of_row = tile.block_k * itemsize
    return (_RINGS[bytes_of_row][0] * rows + tile.num_stages * tile.block_n) * bytes_of_row + _BESIDE


def programs(halo: Halo, tile: Tile, columns: int) -> int:
    return blocks_along(halo.extent, halo.covered(tile)) * cdiv(columns, tile.block_n)


def beside(tile: Tile, itemsize: int) -> float:
    """Clocks before the loop and after it, when no other program is on the SM to use them."""
    return _START + _EPILOGUE[itemsize] * tile.block_m / _ROWS


def constants(halo: Halo, tile: Tile, itemsize: int) -> dict[str, int | bool]:
    """Of the kernel: the axis, its blocks, and how many of what its loads go to there are."""
    assert tile.box
    along = {"DOWN": halo.down, "TAPS": halo.taps, "STRIDE": halo.step}
    boxes = {f"BOX{axis}": size for axis, size in enumerate(tile.box)}
    rings = {"HALOS": _RINGS[tile.block_k * itemsize][0], "STAGES": tile.num_stages, "REGISTERS": _REGISTERS}
    return {**along, **boxes, **tile.blocks("MNK"), **rings}


def program(halo: Halo, tile: Tile, channels: int, columns: int, itemsize: int, residual: bool) -> Program:
    """What one does. What lies beyond the last channel or column is multiplied, but nobody fetches it."""
    chunks, rows = cdiv(channels, tile.block_k), min(halo.kernel)
    width = columns / cdiv(columns, tile.block_n)
    pixels = tile.block_m // halo.positions(tile)
    # Positions of all remainders by the stride: each as many as there are in a program, and what its taps add.
    visited = halo.step * halo.positions(tile) + halo.taps - halo.step
    fetched = rows * channels * (visited * pixels + halo.taps * width) * itemsize
    stored = tile.block_m * width * itemsize * (2 if residual else 1)
    steps = rows * chunks
    tap = max(tile.block_m * tile.block_n * tile.block_k * itemsize / _FMA, _TAP)
    refilled = (_ROUND_TRIP + visited / halo.step * pixels * tile.block_k * itemsize / _FETCH) * halo.step
    step = max(halo.taps * tap, fetched / steps / _FETCH, refilled / (_RINGS[tile.block_k * itemsize][0] - 1))
    depth = rows * halo.taps * chunks * tile.block_k
    return Program(
        bytes=fetched + stored,
        product=2 * tile.block_m * tile.block_n * depth,
        resident=1,
        clocks=steps * step + stored / _STORE + beside(tile, itemsize),
    )
