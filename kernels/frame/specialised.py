"""Tiles of the warp-specialised separable convolution: which there are, and what they cost; pure functions.

See `jit/separable_specialised.py`. Its operand, BLOCK_M pixels of all channels, stays in shared memory, and what that
leaves is the ring for the weights: so channels decide how many pixels a program has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import isqrt

from optgraph.base.devices import SM_90, Target
from optgraph.kernels.frame.tile import Tile, cdiv
from optgraph.kernels.frame.work import Program

MOST_TAPS = 5  # of a window's row, which is unrolled: more spill
# Two warpgroups that multiply, or one, 64×128 each, beside eight warps that produce. 32 channels a step: many small
# stages keep the copy engine busier than a few of 64 do.
_TILES = (Tile(128, 128, 32, 8, producers=8), Tile(64, 128, 32, 4, producers=8))
_STAGES = range(2, 7)
_REGISTERS = 88  # of a thread that produces
# By reading machine code, and what others measured: assumptions until a GPU says.
_FMA, _WARP, _SCHEDULERS = 2048, 32, 4  # multiply-adds a clock of tensor cores; threads of a warp; warps that issue
_LOAD = 500.0  # clocks from a load to its use
_TAP = 3.9  # instructions a tap of a value
_FETCH, _STORE = 28.0, 32.0  # bytes a clock, out of L2 and to it
_ROUND_TRIP = 900.0  # clocks from a free stage to a full one, where all SMs fetch
_START, _EPILOGUE = 2500.0, 1000.0  # clocks; of a block of columns, by its instructions
_BESIDE = 1024  # bytes of shared memory for mbarriers, and for what Triton hands to its partitions


def tiles(channels: int, itemsize: int, target: Target) -> Iterator[Tile]:
    """Those that fit; only sm_90 has wgmma."""
    for tile in _TILES if target == SM_90 and itemsize == 2 else ():
        fitting = [replace(tile, num_stages=stages) for stages in _STAGES]
        fitting = [t for t in fitting if shared_bytes(t, channels, itemsize) <= target.device.block_shared]
        yield from fitting[-1:]


def specialised_constants(tile: Tile, channels: int) -> dict[str, int]:
    """Constants of the kernel: its blocks, and who makes, brings and keeps them."""
    chunks = cdiv(channels, tile.block_k)
    by_whom = {"CHUNKS": chunks, "STAGES": tile.num_stages, "PRODUCERS": tile.producers, "REGISTERS": _REGISTERS}
    return {**tile.blocks("MNK"), **by_whom}


def shared_bytes(tile: Tile, channels: int, itemsize: int) -> int:
    """At most."""
    kept = tile.block_m * cdiv(channels, tile.block_k) * tile.block_k
    return (kept + tile.num_stages * tile.block_k * tile.block_n) * itemsize + _BESIDE


def clocks(tile: Tile, channels: int, columns: int, taps: int, itemsize: int) -> float:
    """Estimated for one program: the depthwise or the first block of columns beside it, whichever takes longer; the
    other blocks; and what each of them stores."""
    chunks, passes = cdiv(channels, tile.block_k), cdiv(columns, tile.block_n)
    fetched = tile.block_k * tile.block_n * itemsize
    product = tile.block_m * tile.block_n * tile.block_k / _FMA
    step = max(product, fetched / _FETCH, _ROUND_TRIP / (tile.num_stages - 1))
    # A warp waits for what it loads of a row of the window, and then adds it; its scheduler has another one.
    rows, added = chunks * isqrt(taps), tile.block_m * tile.block_k * taps / isqrt(taps) * _TAP / _WARP
    depthwise = rows * max(added / _SCHEDULERS, _LOAD + added / tile.producers)
    stored = tile.block_m * tile.block_n * itemsize / _STORE + _EPILOGUE
    return _START + max(depthwise, chunks * step) + (passes - 1) * chunks * step + passes * stored


def program(tile: Tile, channels: int, columns: int, taps: int, itemsize: int, residual: bool) -> Program:
    """What one does: it reads its pixels once, but for what the windows of two rows share, and all weights."""
    depth, width = cdiv(channels, tile.block_k) * tile.block_k, cdiv(columns, tile.block_n) * tile.block_n
    moved = (2 * tile.block_m + width) * depth + tile.block_m * columns * (2 if residual else 1)
    alone = clocks(tile, channels, columns, taps, itemsize)
    product, window = 2 * tile.block_m * width * depth, 2 * tile.block_m * depth * taps
    return Program(moved * itemsize, product, window, resident=1, clocks=alone)
