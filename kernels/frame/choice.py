"""Tile choice: pure functions of the problem size and the target, testable with no GPU.

`target` is "interpret" or "sm_80", "sm_90", ... Each choice is the candidate of least estimated cost, unless `optgraph
tune` has measured which is fastest. On a GPU a big block reads each operand fewer times, but a small map at batch 1
then has fewer blocks than there are SMs. Triton's interpreter runs programs one after another with numpy inside, where
a loaded element, masked or not, costs 10 ns and a multiply-add 0.01 ns (measured): there, the fewest loads win.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod

from optgraph.base.devices import DEVICES, Device
from optgraph.kernels.frame import tuned

_asked: ContextVar[list[Problem] | None] = ContextVar("asked", default=None)

MAX_NUMEL = 2**20  # Triton's limit on the elements of one block
PLANNED_BATCHES = (1, 8, 64)


Box = tuple[int, int, int]


@dataclass(frozen=True)
class Tile:
    """Block sizes of one launch: powers of two; those of a tl.dot are at least 16.

    box: the pixels (images, rows, columns) that one load of the copy engine (TMA) fetches, block_m in all; None where
    every pixel is addressed by itself. splits: programs that share one tile's depth (see split_k). accumulators: blocks
    of columns that one program computes side by side, so that what they share is computed once.
    """

    block_m: int
    block_n: int
    block_k: int = 32
    num_warps: int = 4
    num_stages: int = 3
    box: Box | None = None
    splits: int = 1
    accumulators: int = 1

    @property
    def columns(self) -> int:
        return self.block_n * self.accumulators


@dataclass(frozen=True)
class Problem:
    """A GEMM-like launch, as far as its tile depends on it.

    extent: output pixels, as (images, rows, columns), or (1, all of them, 1) where the split is of no matter.
    n:      columns of each segment; no tile straddles two.
    k:      depth of one tap, in channels; padded to block_k.
    taps:   of a convolution.
    depthwise: taps of the depthwise convolution before the GEMM, or 0: every block of columns repeats it.
    plain:  neither prologue nor residual; beside them the biggest accumulators would spill.
    tma:    whether the copy engine may load x and weight.
    splittable: whether the kernel can share a tile's depth among programs.
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

    @property
    def m(self) -> int:
        return self.extent[0] * self.extent[1] * self.extent[2]


# Few shapes, so that a network needs few compiled variants. wgmma (sm_90) wants 64 rows per four warps.
_GEMM_16BIT: tuple[Tile, ...] = (
    Tile(128, 256, 64, 8, 3),
    Tile(128, 128, 64, 8, 3),
    Tile(128, 64, 64, 4, 4),
    Tile(64, 64, 64, 4, 4),
    Tile(128, 32, 64, 4, 4),
    Tile(64, 32, 64, 4, 4),
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


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


def ceil_pow2(x: int) -> int:
    return 1 << max(0, x - 1).bit_length()


def planned_batch(batch: int, target: str) -> int:
    """The batch that tiles are chosen for: on a GPU 1, 8 or 64, so that a net compiled for these serves all sizes."""
    if target == "interpret":
        return batch
    return min(PLANNED_BATCHES, key=lambda planned: max(batch, planned) / min(batch, planned))


def gemm(
    m: int,
    n: int | Sequence[int],
    k: int,
    itemsize: int,
    target: str,
    taps: int = 1,
    plain: bool = True,
    tma: bool = False,
) -> Tile:
    """Tile of an [m, k] x [k, n] GEMM, or of an implicit one whose depth is `taps` runs of k; see Problem."""
    columns = (n,) if isinstance(n, int) else tuple(n)
    return choose(Problem((1, m, 1), columns, k, itemsize, taps, plain=plain, tma=tma), target)


def separable(m: int, n: int, c: int, itemsize: int, target: str, taps: int = 9, plain: bool = True) -> Tile:
    """Tile of a depthwise convolution feeding a GEMM [m, c] x [c, n]: every n-block repeats the depthwise."""
    return choose(Problem((1, m, 1), (n,), c, itemsize, depthwise=taps, plain=plain, splittable=False), target)


def rows(m: int, c: int, itemsize: int, target: str) -> tuple[int, int]:
    """(block_m pixels, block_n channels) of a kernel over [m, c] that only moves bytes."""
    if target == "interpret":
        block_n = min(_padding_blocks(c, 1, 4096), key=lambda block: (cdiv(c, block) * block, -block))
        block_m = min(_padding_blocks(m, 1, 2**18 // block_n), key=lambda b: cdiv(m, b) * (b * block_n + 2**14))
        return block_m, block_n
    # Four warps, sixteen bytes a thread and load: neighbouring threads read neighbouring channels of a pixel.
    block_n = max(16, min(ceil_pow2(c), 256 // itemsize))
    return max(1, 4096 // itemsize // block_n), block_n


def choose(problem: Problem, target: str) -> Tile:
    """The fastest candidate where `optgraph tune` has measured it, else that of least estimated cost."""
    asked = _asked.get()
    if asked is not None:
        asked.append(problem)
    return _best(problem, target)


@contextmanager
def recording() -> Iterator[list[Problem]]:
    """Collects the problems that `choose` is asked about inside."""
    asked: list[Problem] = []
    token = _asked.set(asked)
    try:
        yield asked
    finally:
        _asked.reset(token)


@lru_cache(maxsize=4096)
def _best(problem: Problem, target: str) -> Tile:
    found = candidates(problem, target)
    return tuned.fastest(problem, target, found) or found[0]


def candidates(problem: Problem, target: str) -> list[Tile]:
    """Every tile that a launch of `problem` may have on `target`, that of least estimated cost first."""
    if target == "interpret":
        tiles = list(_interpreter_tiles(problem.m, max(problem.n), problem.k))
        return sorted(tiles, key=lambda tile: _interpreter_cost(tile, problem))
    device = _device(target)
    itemsize = problem.itemsize
    if problem.depthwise:
        table = _SEPARABLE_16BIT if itemsize == 2 else _SEPARABLE_32BIT
    else:
        table = _GEMM_16BIT if itemsize == 2 else _GEMM_32BIT
    block_k = max(16, ceil_pow2(problem.k))
    if any(size * itemsize % 16 for size in (problem.k, *problem.n)):
        # Elements are loaded one by one, each with an address in registers: bigger blocks would spill.
        table = tuple(tile for tile in table if tile.block_m * tile.columns <= 64 * 64)
        block_k = min(block_k, 64 // itemsize)
    if not problem.plain:
        table = tuple(tile for tile in table if tile.block_m * tile.columns < _WIDE)
    tiles = [replace(tile, block_k=min(tile.block_k, block_k)) for tile in table]
    if problem.tma and device.tma and itemsize == 2:
        tiles += [replace(tile, box=box) for tile in tiles for box in _boxes(tile, problem)]
    if problem.taps > 1:
        # Beside the widest accumulators there are no registers for every pixel's taps.
        tiles = [tile for tile in tiles if tile.box or tile.block_m * tile.columns < 128 * 256]
    tiles += [
        replace(tile, splits=splits) for tile in tiles for splits in _SPLITS if _splits(tile, splits, problem, device)
    ]
    fitting = [tile for tile in tiles if _shared_bytes(tile, itemsize) <= device.block_shared]
    return sorted(fitting, key=lambda tile: _gpu_cost(tile, problem, device))


def _boxes(tile: Tile, problem: Problem) -> list[Box]:
    """Only a run of pixels where they are all in a row."""
    run = (1, tile.block_m, 1)
    flat = problem.extent[0] == problem.extent[2] == 1 and problem.taps == 1
    return [box for box in _BOXES.get(tile.block_m, ()) if box == run or not flat]


def _splits(tile: Tile, splits: int, problem: Problem, device: Device) -> bool:
    """Whether SMs are idle otherwise, and each of `splits` programs would have a pipeline's worth of steps."""
    steps = problem.taps * cdiv(problem.k, tile.block_k)
    small = tile.block_m * tile.block_n <= _SPLIT_BELOW and _blocks(tile, problem) < device.sms
    return small and problem.splittable and steps >= 4 * splits


def _device(target: str) -> Device:
    """The newest known device that is not newer than `target`, or the oldest."""
    known = [name for name in DEVICES if int(name[3:]) <= int(target[3:])]
    return DEVICES[known[-1] if known else "sm_80"]


def _padding_blocks(size: int, low: int, high: int) -> list[int]:
    """Powers of two from `low` to the first that covers `size`, at most `high`."""
    blocks = [low]
    while blocks[-1] < min(size, high) and blocks[-1] * 2 <= high:
        blocks.append(blocks[-1] * 2)
    return blocks


def _interpreter_tiles(m: int, n: int, k: int) -> Iterator[Tile]:
    for block_m in _padding_blocks(m, 16, 4096):
        for block_n in _padding_blocks(n, 16, 2048):
            for block_k in _padding_blocks(k, 16, 512):
                if max(block_m * block_n, block_m * block_k, block_n * block_k) <= MAX_NUMEL:
                    yield Tile(block_m, block_n, block_k)


def blocks_along(extent: Box, box: Box) -> int:
    """How many boxes cover the extent."""
    return prod(cdiv(size, block) for size, block in zip(extent, box, strict=True))


def _blocks(tile: Tile, problem: Problem) -> int:
    """Output tiles, before any is split."""
    rows = blocks_along(problem.extent, tile.box) if tile.box else cdiv(problem.m, tile.block_m)
    return rows * sum(cdiv(size, tile.columns) for size in problem.n)


def _interpreter_cost(tile: Tile, problem: Problem) -> float:
    """Estimated nanoseconds."""
    a, b, c = tile.block_m * tile.block_k, tile.block_k * tile.block_n, tile.block_m * tile.block_n
    reads = max(1, problem.depthwise)
    step = 10.0 * (a * reads + b) + 0.01 * a * tile.block_n + 0.5 * c + 2e5 * reads
    return _blocks(tile, problem) * (problem.taps * cdiv(problem.k, tile.block_k) * step + 11.0 * c + 5e5)


def _shared_bytes(tile: Tile, itemsize: int) -> int:
    return (tile.block_m + tile.block_n) * tile.block_k * itemsize * tile.num_stages


def _gpu_cost(tile: Tile, problem: Problem, device: Device) -> tuple[float, int]:
    """Estimated clocks: waves of blocks over the SMs, each a time for its multiply-adds and one for what it reads.

    The constants are round figures from data sheets (32 bytes a clock from L2 to an SM, a microsecond to start and
    drain a block); only their order of magnitude matters. The two add up, as their overlap is never whole. Ties go to
    the fewer programs.
    """
    programs = _blocks(tile, problem) * tile.splits
    itemsize, depthwise = problem.itemsize, problem.depthwise
    depth = cdiv(problem.taps * cdiv(problem.k, tile.block_k), tile.splits) * tile.block_k
    fma = device.fma if itemsize == 2 else 128
    # A tap takes a conversion, a multiply-add and part of a load and of a mask.
    compute = tile.block_m * depth * (tile.columns / fma + 2.5 * depthwise / 128)
    # Of a depthwise window's taps most hit L1: counted as two reads of x. Threads that address every pixel themselves
    # are taken to be a quarter slower than the copy engine: a guess.
    rows = tile.block_m * (2 if depthwise else 1)
    loads = (rows + tile.columns) * depth * itemsize / 32 * (1.0 if tile.box else 1.25)
    store = tile.block_m * tile.columns * itemsize / 32
    if tile.splits > 1:
        # The last program of a tile reads what all of them wrote, after a round trip to L2.
        store += 1000.0 + tile.block_m * tile.block_n * 4 * (1 + tile.splits) / 32
    return cdiv(programs, device.sms) * (compute + loads + store + 1500.0), programs
