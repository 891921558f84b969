"""Tiles of the warp-specialised separable convolution: which there are, and what they cost; pure functions.

See `jit/separable_specialised.py`. Its operand, BLOCK_M pixels of all channels, stays in shared memory until all
columns are made of it. What that leaves is for the halos, the weights, and a second operand if there is room: so
channels, and how wide the map is, decide what a program can have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import prod

from optgraph.base.devices import SM_90, Target
from optgraph.ir.values import Pair, Window
from optgraph.kernels.frame.tile import Box, Tile, cdiv
from optgraph.kernels.frame.work import Program

MOST_TAPS = 5  # of a window's row or column, which are unrolled: more spill
LEAST_WIDTH = 8  # of a map: what a thread's windows see then lies in two rows at most
_BLOCK_K = 64  # channels of a chunk: 128 bytes, which is what a swizzled row has
# Two warpgroups that multiply, or one, 64×128 each, beside as many warps that produce.
_TILES = (Tile(128, 128, _BLOCK_K, 8, producers=8), Tile(64, 128, _BLOCK_K, 4, producers=4))
BOX = 32  # pixels that one copy fetches
_DEPTHS, _HALOS, _STAGES = (1, 2), (2, 3), range(2, 7)
_DEVICE = SM_90.device
_REGISTERS = 112  # of a thread that produces
_BESIDE = 2048  # bytes of shared memory for mbarriers, and for what Triton hands to its partitions
# By reading machine code, and what others measured: assumptions until a GPU says.
_FMA, _SHARED = 2048, 128  # a clock of an SM: multiply-adds of its tensor cores, bytes of shared memory
_WARP, _SCHEDULERS = 32, 4  # threads of a warp; warps that issue
_TAP, _STORED = 2.1, 9.0  # instructions a tap of a value, and a value that is stored
_ISSUE = 0.75  # of the slots to issue in
_CHUNK = 250.0  # clocks of a chunk's waits and barriers, which nothing hides
_FETCH, _STORE = 28.0, 32.0  # bytes a clock, out of L2 and to it
_ROUND_TRIP = 900.0  # clocks from a free stage to a full one, where all SMs fetch
_START, _EPILOGUE = 2500.0, 1000.0  # clocks; of a block of columns, by its instructions
_WINDOW = 4.2  # instructions a tap, as `Program.window` is reckoned (`gemm.TAP`)


@dataclass(frozen=True)
class Run:
    """Pixels side by side, through all rows and images, as far as what a program needs depends on it.

    pixels: in all.  width: of the map.  channels, columns: of input and output.  kernel: of the window.
    """

    pixels: int
    width: int
    channels: int
    columns: int
    kernel: Pair

    @classmethod
    def of(cls, window: Window, extent: Box, channels: int, columns: int) -> Run | None:
        """Of an output of so many images, rows and columns. None where taps are not always as far from a pixel: that
        takes an output of the input's size."""
        few = max(window.kernel) <= MOST_TAPS and extent[2] >= LEAST_WIDTH
        same = all(a + b == k - 1 for a, b, k in zip(window.pads[:2], window.pads[2:], window.kernel, strict=True))
        follows = same and window.stride == window.dilation == (1, 1)
        return cls(prod(extent), extent[2], channels, columns, window.kernel) if few and follows else None

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1]

    def halo(self, tile: Tile) -> int:
        """Pixels that a program fetches for one block: a whole number of copies."""
        return cdiv(tile.block_m + (self.kernel[0] - 1) * self.width + self.kernel[1] - 1, BOX) * BOX


@dataclass(frozen=True)
class Rings:
    """What is in shared memory at once: operands of the product, halos, and stages of weights."""

    depth: int
    halos: int
    stages: int


def tiles(run: Run, target: Target) -> Iterator[Tile]:
    """Those that fit; only sm_90 has wgmma."""
    for tile in _TILES if target == SM_90 else ():
        if _fitting(tile, run):
            yield tile


def _bytes(tile: Tile, run: Run, rings: Rings) -> int:
    """Of shared memory, at most."""
    kept = rings.depth * tile.block_m * cdiv(run.channels, tile.block_k)
    rows = kept + rings.halos * run.halo(tile) + rings.stages * tile.block_n
    return rows * tile.block_k * 2 + _BESIDE


def _fitting(tile: Tile, run: Run) -> list[Rings]:
    found = (Rings(*sizes) for sizes in product(_DEPTHS, _HALOS, _STAGES))
    return [rings for rings in found if _bytes(tile, run, rings) <= _DEVICE.block_shared]


@lru_cache(maxsize=4096)
def rings(tile: Tile, run: Run) -> Rings:
    """Those that a program takes the least time with; of the same time, the smallest."""
    return min(_fitting(tile, run), key=lambda found: (_block(tile, run, found), _bytes(tile, run, found)))


def shared_bytes(tile: Tile, run: Run) -> int:
    """At most."""
    return _bytes(tile, run, rings(tile, run))


def programs(tile: Tile, run: Run) -> int:
    """One an SM, each of which takes one block of pixels after another."""
    return min(_DEVICE.sms, cdiv(run.pixels, tile.block_m))


def constants(tile: Tile, run: Run) -> dict[str, int]:
    """Of the kernel: its blocks, and who makes, brings and keeps them."""
    found = rings(tile, run)
    kept = {"CHUNKS": cdiv(run.channels, tile.block_k), "DEPTH": found.depth}
    loaded = {"HALO": run.halo(tile), "HALOS": found.halos, "STAGES": found.stages}
    # So that a thread has one run of pixels.
    by_whom = {"RUN": tile.block_m * tile.block_k // (8 * _WARP * tile.producers), "PRODUCERS": tile.producers}
    return {**tile.blocks("MNK"), **kept, **loaded, **by_whom, "REGISTERS": _REGISTERS}


def _block(tile: Tile, run: Run, found: Rings) -> float:
    """Clocks that a program takes for a block of pixels, when it has begun: as long as those of its warps that take the
    longest. With room for one operand, the next is made while the last columns of this one are, chunk by chunk, and
    their epilogue and the first columns of the next follow: what it takes for longer than these, nothing hides."""
    chunks, passes = cdiv(run.channels, tile.block_k), cdiv(run.columns, tile.block_n)
    halo, stage = (rows * tile.block_k * 2 for rows in (run.halo(tile), tile.block_n))
    fetched = chunks * max(halo / _FETCH, (_ROUND_TRIP + halo / _FETCH) / found.halos)
    added = tile.block_m * tile.block_k * run.taps * _TAP / _WARP
    produced = max(chunks * (added / _SCHEDULERS / _ISSUE + _CHUNK), fetched)
    step = max(tile.block_m * tile.block_n * tile.block_k / _FMA, stage / _FETCH, _ROUND_TRIP / (found.stages - 1))
    finished = tile.block_m * tile.block_n * 2 / _STORE + _EPILOGUE
    multiplied = passes * (chunks * step + finished)
    if found.depth == 1:
        multiplied += max(0.0, produced + 2 * step - 2 * chunks * step - finished)
    return max(produced, multiplied, _moved(tile, run) / _SHARED, (halo * chunks + stage * chunks * passes) / _FETCH)


def _moved(tile: Tile, run: Run) -> float:
    """Bytes that a block of pixels moves in shared memory: halos, what is read of them and made of it, weights, and
    what the products read of both, 64 rows at a time."""
    chunks, passes = cdiv(run.channels, tile.block_k), cdiv(run.columns, tile.block_n)
    read = tile.block_m * run.kernel[0] * (1 + (run.kernel[1] - 1) / 4) + tile.block_m
    product = tile.block_m + tile.block_m // 64 * tile.block_n
    return chunks * tile.block_k * 2 * (run.halo(tile) + read + passes * (tile.block_n + product))


def clocks(tile: Tile, run: Run) -> float:
    """Estimated for the busiest program: its blocks one after another, and the first one's way through all warps."""
    blocks, found = cdiv(cdiv(run.pixels, tile.block_m), _DEVICE.sms), rings(tile, run)
    return _START + (blocks + 0.5) * _block(tile, run, found)


def program(tile: Tile, run: Run, residual: bool) -> Program:
    """What one does: it reads the halos of its blocks once, and all weights for each of them."""
    count = cdiv(run.pixels, tile.block_m) / programs(tile, run)
    depth, width = (cdiv(n, block) * block for n, block in ((run.channels, tile.block_k), (run.columns, tile.block_n)))
    moved = (run.halo(tile) + run.columns) * run.channels + tile.block_m * run.columns * (2 if residual else 1)
    instructions = tile.block_m * (depth * run.taps * _TAP + width * _STORED)
    return Program(
        bytes=count * moved * 2,
        product=count * 2 * tile.block_m * width * depth,
        window=count * 2 * instructions / _WINDOW,
        resident=1,
        clocks=clocks(tile, run),
    )
