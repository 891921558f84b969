"""Tiles of the kernels that end in a matrix product: pure functions of its size and the target, testable with no GPU.

Each choice is the candidate of least estimated cost, unless `optgraph tune` has measured which is fastest. On a GPU a
big block reads each operand fewer times, but a small map at batch 1 then has fewer blocks than there are SMs. Triton's
interpreter runs programs one after another with numpy inside, where a loaded element, masked or not, costs 10 ns and a
multiply-add 0.01 ns (measured): there, the fewest loads win.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from optgraph.base.devices import Device, Target
from optgraph.kernels.frame import halos, specialised, streamed
from optgraph.kernels.frame.halos import Halo
from optgraph.kernels.frame.occupancy import REGISTERS, blocks_per_sm
from optgraph.kernels.frame.operands import strides4
from optgraph.kernels.frame.rows import alignment
from optgraph.kernels.frame.specialised import Run
from optgraph.kernels.frame.tile import MAX_NUMEL, Box, Problem, Tile, blocks_along, cdiv, ceil_pow2, padding_blocks
from optgraph.kernels.frame.work import Program


@dataclass(frozen=True)
class Gemm(Problem):
    """A GEMM-like launch, as far as its tile depends on it.

    extent: output pixels, as (images, rows, columns), or (1, all of them, 1) where the split is of no matter.
    n:      columns of each segment; no tile straddles two.
    k:      depth of one tap, in channels; padded to block_k.
    taps:   of a convolution.
    depthwise: taps of the window that is reduced before the GEMM, or 0: every block of columns repeats it.
    plain:  neither prologue nor residual; beside them the biggest accumulators would spill.
    tma:    whether the copy engine may load x and weight.
    splittable: whether the kernel can share a tile's depth among programs.
    halo:   of a convolution whose taps may read shared memory, by specialised warps.
    streams: whether all blocks of a program may be under way at once (see `streamed.py`).
    run:    of a window reduced before the GEMM, where specialised warps may do that.
    """

    extent: Box
    n: tuple[int, ...]
    k: int
    itemsize: int
    taps: int = 1
    depthwise: int = 0
    plain: bool = True
    tma: bool = False
    splittable: bool = True
    halo: Halo | None = None
    streams: bool = False
    run: Run | None = None

    @property
    def m(self) -> int:
        return self.extent[0] * self.extent[1] * self.extent[2]

    def candidates(self, target: Target) -> list[Tile]:
        return _candidates(self, target)

    def program(self, tile: Tile, residual: bool, rows: int = 1) -> Program:
        """What one program does. Of the reads of overlapping windows most meet L1: they count for two. rows: how often
        a loop over the window goes round."""
        if tile.producers and self.halo:
            return halos.program(self.halo, tile, self.k, self.n[0], self.itemsize, residual)
        if tile.streamed:
            return streamed.program(tile, residual)
        depth = _depth(tile, self)
        area = tile.block_m * tile.columns
        fetched = (tile.block_m * (2 if self.depthwise else 1) + tile.columns) * depth
        stored = area * (2 if residual else 1)
        return Program(
            bytes=(fetched + stored) * self.itemsize,
            product=2 * area * depth,
            window=2 * tile.block_m * depth * self.depthwise,
            waits=_waits(tile, self) + (tile.splits + 1 if tile.splits > 1 else 0),  # count, then add up the parts
            steps=depth // tile.block_k,
            rows=rows,
        )


def product_constants(
    x: torch.Tensor, out: torch.Tensor, channels: int, columns: Sequence[int], precision: str, tile: Tile
) -> dict[str, int | str]:
    """Constants of every kernel with a product: how it multiplies, its blocks, and what divides the sizes and strides
    along its depth and, with `columns`, along its columns."""
    *strides, stride_c = strides4(x)
    align_k = alignment(channels, *strides, itemsize=x.element_size()) if stride_c == 1 else 1
    align_n = alignment(*columns, itemsize=out.element_size())
    return {"PRECISION": precision, "ALIGN_K": align_k, "ALIGN_N": align_n, **tile.blocks("MNK")}


# Few shapes, so that a network needs few compiled variants. wgmma (sm_90) wants 64 rows per four warps.
_GEMM_16BIT: tuple[Tile, ...] = (
    Tile(128, 256, 64, 8, 3),
    Tile(128, 128, 64, 8, 3),
    Tile(128, 64, 64, 4, 4),
    Tile(64, 64, 64, 4, 4),
    Tile(128, 32, 64, 4, 4),
    Tile(64, 32, 64, 4, 4),
)
_GEMM_8BIT: tuple[Tile, ...] = (
    Tile(128, 256, 128, 8, 3),
    Tile(128, 128, 128, 8, 3),
    Tile(128, 64, 128, 4, 3),
    Tile(64, 64, 128, 4, 4),
    Tile(128, 32, 128, 4, 4),
    Tile(64, 32, 128, 4, 4),
)
_GEMM_32BIT: tuple[Tile, ...] = (
    Tile(128, 64, 32, 8, 3),
    Tile(64, 64, 32, 4, 3),
    Tile(64, 32, 32, 4, 3),
    Tile(16, 64, 32, 4, 3),
)
# Boxes that between them waste little of maps 8 to 149 pixels wide, with one image or several in a block.
_BOXES: dict[int, tuple[Box, ...]] = {
    128: ((1, 128, 1), (8, 16, 1), (1, 8, 16), (2, 8, 8), (8, 4, 4)),
    64: ((1, 64, 1), (1, 8, 8), (4, 4, 4)),
}
# A tap of a window reduced in registers takes so many instructions a value: a multiply-add, and part of a load, a mask,
# an address and what else a step has. By the machine code, in fp16 (`python -m benchmarks.loops`); 7 where rows are
# added in float32.
TAP = 4.2
# Clocks from a load to what depends on it, out of a busy L2, with the barrier that may follow. By reading machine code
# 430 to 720: an assumption until a GPU says.
WAIT = 500.0
# Instructions until a sum of integers is the number of a grid; a residual that is on one takes as many more. By the
# machine code, as the registers beside the sums.
_SETTLED = 12
_WIDE = 64 * 384  # accumulators beside which a prologue or a residual would spill
_SPLITS = (2, 4, 8)
_SPLIT_BELOW = 64 * 64  # only a small tile is ever split

# Registers bound these: fewer warps or deeper blocks spill on sm_80.
_SEPARABLE_16BIT: tuple[Tile, ...] = (
    Tile(64, 128, 64, 8, 1, accumulators=3),  # two blocks for Xception's 728 channels
    Tile(64, 256, 64, 8, 1),
    Tile(64, 128, 64, 8, 1),
    Tile(64, 64, 32, 4, 1),
    Tile(32, 128, 32, 4, 1),
    Tile(32, 64, 64, 4, 1),
    Tile(16, 64, 64, 4, 1),
)
_SEPARABLE_32BIT: tuple[Tile, ...] = (
    Tile(64, 64, 32, 8, 1),
    Tile(32, 128, 32, 4, 1),
    Tile(32, 64, 32, 4, 1),
    Tile(16, 64, 32, 4, 1),
)


def _candidates(problem: Gemm, target: Target) -> list[Tile]:
    if target.interpreted:
        tiles = list(_interpreter_tiles(problem.m, max(problem.n), problem.k))
        return sorted(tiles, key=lambda tile: _interpreter_cost(tile, problem))
    device = target.device
    itemsize = problem.itemsize
    if problem.depthwise:
        table = _SEPARABLE_32BIT if itemsize == 4 else _SEPARABLE_16BIT
    else:
        table = {1: _GEMM_8BIT, 2: _GEMM_16BIT, 4: _GEMM_32BIT}[itemsize]
    block_k = max(32 if itemsize == 1 else 16, ceil_pow2(problem.k))
    if any(size * itemsize % 16 for size in (problem.k, *problem.n)):
        # Elements are loaded one by one, each with an address in registers: bigger blocks would spill.
        table = tuple(tile for tile in table if tile.block_m * tile.columns <= 64 * 64)
        block_k = min(block_k, 64 // itemsize)
    if not problem.plain:
        table = tuple(tile for tile in table if tile.block_m * tile.columns < _WIDE)
    tiles = [replace(tile, block_k=min(tile.block_k, block_k)) for tile in table]
    if problem.tma and device.tma and itemsize <= 2 and not problem.depthwise:
        tiles += [replace(tile, box=box) for tile in tiles for box in _boxes(tile, problem)]
    if problem.taps > 1:
        # Beside the widest accumulators there are no registers for every pixel's taps.
        tiles = [tile for tile in tiles if tile.box or tile.block_m * tile.columns < 128 * 256]
    tiles += [
        replace(tile, splits=splits) for tile in tiles for splits in _SPLITS if _splits(tile, splits, problem, device)
    ]
    if problem.run:
        tiles += specialised.tiles(problem.run, target)
    if problem.halo:
        tiles += halos.tiles(problem.halo, problem.n[0], itemsize, problem.plain, target)
    if problem.streams:
        tiles += streamed.tiles(problem.extent, problem.n, problem.k, problem.taps, target)
    fitting = [tile for tile in tiles if tile.producers or _shared_bytes(tile, itemsize) <= device.block_shared]
    return sorted(fitting, key=lambda tile: _gpu_cost(tile, problem, device))


def _boxes(tile: Tile, problem: Gemm) -> list[Box]:
    """Only a run of pixels where they are all in a row."""
    run = (1, tile.block_m, 1)
    flat = problem.extent[0] == problem.extent[2] == 1 and problem.taps == 1
    return [box for box in _BOXES.get(tile.block_m, ()) if box == run or not flat]


def _splits(tile: Tile, splits: int, problem: Gemm, device: Device) -> bool:
    """Whether SMs are idle otherwise, and each of `splits` programs would have a pipeline's worth of steps."""
    steps = problem.taps * cdiv(problem.k, tile.block_k)
    small = tile.block_m * tile.block_n <= _SPLIT_BELOW and _blocks(tile, problem) < device.sms
    return small and problem.splittable and steps >= 4 * splits


def _interpreter_tiles(m: int, n: int, k: int) -> Iterator[Tile]:
    for block_m in padding_blocks(m, 16, 4096):
        for block_n in padding_blocks(n, 16, 2048):
            for block_k in padding_blocks(k, 16, 512):
                if max(block_m * block_n, block_m * block_k, block_n * block_k) <= MAX_NUMEL:
                    yield Tile(block_m, block_n, block_k)


def _blocks(tile: Tile, problem: Gemm) -> int:
    """Output tiles, before any is split."""
    rows = blocks_along(problem.extent, tile.box) if tile.box else cdiv(problem.m, tile.block_m)
    return rows * sum(cdiv(size, tile.columns) for size in problem.n)


def _interpreter_cost(tile: Tile, problem: Gemm) -> float:
    """Estimated nanoseconds."""
    a, b, c = tile.block_m * tile.block_k, tile.block_k * tile.block_n, tile.block_m * tile.block_n
    reads = max(1, problem.depthwise)
    step = 10.0 * (a * reads + b) + 0.01 * a * tile.block_n + 0.5 * c + 2e5 * reads
    return _blocks(tile, problem) * (problem.taps * cdiv(problem.k, tile.block_k) * step + 11.0 * c + 5e5)


def _depth(tile: Tile, problem: Gemm) -> int:
    """The depth that one program goes through, padding included."""
    return cdiv(problem.taps * cdiv(problem.k, tile.block_k), tile.splits) * tile.block_k


def _waits(tile: Tile, problem: Gemm) -> int:
    """Of a window that is reduced in registers, the loads of each row, and of each block of weights but the first, are
    waited for, and so is the product. Other loops have a pipeline."""
    if not problem.depthwise:
        return 0
    return cdiv(problem.k, tile.block_k) * (math.isqrt(problem.depthwise) + tile.accumulators)


def _resident(tile: Tile) -> int:
    """How many programs of a kernel that reduces a window an SM holds, at least: registers decide."""
    return 1 if tile.block_m * tile.columns > 64 * 128 else 2


def _shared_bytes(tile: Tile, itemsize: int) -> int:
    return (tile.block_m + tile.block_n) * tile.block_k * itemsize * tile.num_stages


def _gpu_cost(tile: Tile, problem: Gemm, device: Device) -> tuple[float, int]:
    """Estimated clocks: waves of blocks over the SMs, each a time for its multiply-adds and one for what it reads.

    The constants are round figures from data sheets (32 bytes a clock from L2 to an SM, a microsecond to start and
    drain a block); only their order of magnitude matters. The two add up, as their overlap is never whole. Ties go to
    the fewer programs.
    """
    if tile.producers and problem.halo:
        programs, one = halos.programs(problem.halo, tile, problem.n[0]), problem.program(tile, residual=False)
        taken = one.product / 2 / device.fma + one.bytes / 32 + halos.beside(tile, problem.itemsize)
        if problem.itemsize == 1:  # as of plain tiles: the longest
            taken = one.clocks
        return cdiv(programs, device.sms) * taken * halos.MARGIN, programs
    if tile.producers and problem.run:
        return specialised.clocks(tile, problem.run), specialised.programs(tile, problem.run)
    if tile.streamed:
        programs = streamed.programs(tile, problem.extent, problem.n)
        return cdiv(programs, device.sms) * streamed.clocks(tile), programs
    programs = _blocks(tile, problem) * tile.splits
    itemsize, depthwise = problem.itemsize, problem.depthwise
    if itemsize == 1:
        rounds = cdiv(programs, device.sms)
        return rounds * _integer_clocks(tile, problem, device, rounds), programs
    depth = _depth(tile, problem)
    fma = device.fma if itemsize == 2 else 128
    compute = tile.block_m * depth * (tile.columns / fma + TAP * depthwise / 128)
    start = 1500.0
    # Of a depthwise window's taps most hit L1: counted as two reads of x. Threads that address every pixel themselves
    # are taken to be a quarter slower than the copy engine: a guess.
    rows = tile.block_m * (2 if depthwise else 1)
    loads = (rows + tile.columns) * depth * itemsize / 32 * (1.0 if tile.box else 1.25)
    store = tile.block_m * tile.columns * itemsize / 32
    if tile.splits > 1:
        # The last program of a tile reads what all of them wrote, after a round trip to L2.
        store += 1000.0 + tile.block_m * tile.block_n * 4 * (1 + tile.splits) / 32
    rounds = cdiv(programs, device.sms)
    if depthwise:
        # One thing after another, but for the work of another program beside it; what is loaded is waited for.
        resident = min(rounds, _resident(tile))
        chain = (compute + WAIT * _waits(tile, problem) + start) / resident
        return rounds * (max(compute, loads, chain) + store), programs
    return rounds * (compute + loads + store + start), programs


def _integer_clocks(tile: Tile, problem: Gemm, device: Device, rounds: int) -> float:
    """Estimated clocks for which a program with int8 operands keeps an SM, of `rounds` that follow one another.

    To bring its sums onto a grid often takes longer than to multiply, and that longer than to fetch bytes: what counts
    is how many instructions there are, and whether there is another program while one waits.
    """
    depth, warps = _depth(tile, problem), tile.num_warps
    values = tile.block_m * tile.columns // (32 * warps)
    settling = values * _SETTLED * (1 if problem.plain else 2)
    issued = warps / 4 * (settling + 400 + depth // tile.block_k * (90 if tile.box else 250))
    multiplied = tile.block_m * depth * tile.columns / device.fma8
    moved = (tile.block_m + tile.columns) * depth + tile.block_m * tile.columns * (1 if problem.plain else 2)
    waits = 4.0
    if tile.splits > 1:
        moved += tile.block_m * tile.block_n * 4 * (1 + tile.splits)
        waits += 2.0
    longest = max(issued, multiplied, moved / 32 * (1.0 if tile.box else 1.25))
    # Counters of taps, and where boxes lie: 174 where a 1x1 has 122.
    registers = REGISTERS + values + (0 if problem.plain else 40) + (50 if problem.taps > 1 else 0)
    resident = min(rounds, blocks_per_sm(min(registers, 255), _shared_bytes(tile, 1), warps, device))
    return max(longest, (longest + waits * WAIT) / max(1, resident))
