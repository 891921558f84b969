"""Tile choice: pure functions of the problem size and the target, testable with no GPU.

`target` is "interpret" or "sm_80", "sm_90", ... Each choice is the candidate of least estimated cost. On a GPU a big
block reads each operand fewer times, but a small map at batch 1 then has fewer blocks than there are SMs. Triton's
interpreter runs programs one after another with numpy inside, where a loaded element, masked or not, costs 10 ns and a
multiply-add 0.01 ns (measured): there, the fewest loads win.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

MAX_NUMEL = 2**20  # Triton's limit on the elements of one block


@dataclass(frozen=True)
class Tile:
    """Block sizes of one launch: powers of two; those of a tl.dot are at least 16."""

    block_m: int
    block_n: int
    block_k: int = 32
    num_warps: int = 4
    num_stages: int = 3


@dataclass(frozen=True)
class _Device:
    sms: int
    shared: int  # bytes of shared memory a block may use
    fma: int  # fp16 tensor-core multiply-adds per clock and SM


_DEVICES = {
    "sm_80": _Device(108, 166_912, 1024),
    "sm_86": _Device(84, 101_376, 512),
    "sm_89": _Device(128, 101_376, 512),
    "sm_90": _Device(132, 232_448, 2048),
}

# Few shapes, so that a network needs few compiled variants. wgmma (sm_90) wants 64 rows per four warps.
_GEMM_16BIT: tuple[Tile, ...] = (
    Tile(128, 256, 64, 8, 3),
    Tile(128, 128, 64, 8, 3),
    Tile(64, 256, 64, 8, 3),
    Tile(128, 64, 64, 4, 4),
    Tile(64, 128, 64, 4, 4),
    Tile(64, 64, 64, 4, 4),
    Tile(128, 32, 64, 4, 4),
    Tile(64, 32, 64, 4, 4),
    Tile(32, 64, 64, 4, 4),
    Tile(32, 32, 64, 4, 4),
    Tile(16, 64, 64, 4, 4),
)
_GEMM_32BIT: tuple[Tile, ...] = (
    Tile(128, 64, 32, 8, 3),
    Tile(64, 128, 32, 8, 3),
    Tile(64, 64, 32, 4, 3),
    Tile(128, 32, 32, 4, 3),
    Tile(64, 32, 32, 4, 3),
    Tile(32, 64, 32, 4, 3),
    Tile(32, 32, 32, 4, 3),
    Tile(16, 64, 32, 4, 3),
)
# Registers bound these: fewer warps or deeper blocks spill on sm_80.
_SEPARABLE_16BIT: tuple[Tile, ...] = (
    Tile(64, 256, 64, 8, 1),
    Tile(64, 128, 64, 8, 1),
    Tile(64, 64, 32, 4, 1),
    Tile(32, 128, 64, 4, 1),
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


def gemm(m: int, n: int | Sequence[int], k: int, itemsize: int, target: str, taps: int = 1, plain: bool = True) -> Tile:
    """Tile of an [m, k] x [k, n] GEMM; `n` may be the widths of several segments that no tile straddles.

    An implicit GEMM counts output pixels as `m`; its depth is `taps` runs of `k` channels, each padded to block_k.
    A launch with a prologue or a residual is not `plain`: beside them the biggest accumulators would spill.
    """
    return _choose(m, (n,) if isinstance(n, int) else tuple(n), k, taps, 0, itemsize, target, plain)


def separable(m: int, n: int, c: int, itemsize: int, target: str, taps: int = 9) -> Tile:
    """Tile of a depthwise convolution feeding a GEMM [m, c] x [c, n]: every n-block repeats the depthwise."""
    return _choose(m, (n,), c, 1, taps, itemsize, target, True)


def rows(m: int, c: int, itemsize: int, target: str) -> tuple[int, int]:
    """(block_m pixels, block_n channels) of a kernel over [m, c] that only moves bytes."""
    if target == "interpret":
        block_n = min(_padding_blocks(c, 1, 4096), key=lambda block: (cdiv(c, block) * block, -block))
        block_m = min(_padding_blocks(m, 1, 2**18 // block_n), key=lambda b: cdiv(m, b) * (b * block_n + 2**14))
        return block_m, block_n
    # Four warps, sixteen bytes a thread and load: neighbouring threads read neighbouring channels of a pixel.
    block_n = max(16, min(ceil_pow2(c), 256 // itemsize))
    return max(1, min(ceil_pow2(m), 4096 // itemsize // block_n)), block_n


@lru_cache(maxsize=4096)
def _choose(
    m: int, n: tuple[int, ...], k: int, runs: int, depthwise: int, itemsize: int, target: str, plain: bool
) -> Tile:
    """`runs` is the taps of a convolution, `depthwise` those of a depthwise one before the GEMM, or 0."""
    if target == "interpret":
        return min(_interpreter_tiles(m, max(n), k), key=lambda tile: _interpreter_cost(tile, m, n, k, runs, depthwise))
    device = _device(target)
    if depthwise:
        candidates = _SEPARABLE_16BIT if itemsize == 2 else _SEPARABLE_32BIT
    else:
        candidates = _GEMM_16BIT if itemsize == 2 else _GEMM_32BIT
    block_k = max(16, ceil_pow2(k))
    if any(size * itemsize % 16 for size in (k, *n)):
        # Elements are loaded one by one, each with an address in registers: bigger blocks would spill.
        candidates = tuple(tile for tile in candidates if tile.block_m * tile.block_n <= 64 * 64)
        block_k = min(block_k, 64 // itemsize)
    if not plain:
        candidates = tuple(tile for tile in candidates if tile.block_m * tile.block_n < 128 * 256)
    fitting = [replace(tile, block_k=min(tile.block_k, block_k)) for tile in candidates]
    fitting = [tile for tile in fitting if _shared_bytes(tile, itemsize) <= device.shared]
    return min(fitting, key=lambda tile: _gpu_cost(tile, m, n, k, runs, depthwise, itemsize, device))


def _device(target: str) -> _Device:
    """The newest known device that is not newer than `target`, or the oldest."""
    known = [name for name in _DEVICES if int(name[3:]) <= int(target[3:])]
    return _DEVICES[known[-1] if known else "sm_80"]


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


def _interpreter_cost(tile: Tile, m: int, n: Sequence[int], k: int, runs: int, depthwise: int) -> float:
    """Estimated nanoseconds."""
    blocks = cdiv(m, tile.block_m) * sum(cdiv(size, tile.block_n) for size in n)
    a, b, c = tile.block_m * tile.block_k, tile.block_k * tile.block_n, tile.block_m * tile.block_n
    reads = max(1, depthwise)
    step = 10.0 * (a * reads + b) + 0.01 * a * tile.block_n + 0.5 * c + 2e5 * reads
    return blocks * (runs * cdiv(k, tile.block_k) * step + 11.0 * c + 5e5)


def _shared_bytes(tile: Tile, itemsize: int) -> int:
    return (tile.block_m + tile.block_n) * tile.block_k * itemsize * tile.num_stages


def _gpu_cost(
    tile: Tile, m: int, n: Sequence[int], k: int, runs: int, depthwise: int, itemsize: int, device: _Device
) -> tuple[float, int]:
    """Estimated clocks: waves of blocks over the SMs, each a time for its multiply-adds and one for what it reads.

    The constants are round figures from data sheets (32 bytes a clock from L2 to an SM, a microsecond to start and
    drain a block); only their order of magnitude matters. The two add up, as their overlap is never whole. Ties go to
    the bigger block.
    """
    blocks = cdiv(m, tile.block_m) * sum(cdiv(size, tile.block_n) for size in n)
    depth = runs * cdiv(k, tile.block_k) * tile.block_k
    fma = device.fma if itemsize == 2 else 128
    compute = tile.block_m * depth * (tile.block_n / fma + depthwise / 128)
    # Of a depthwise window's taps most hit L1: counted as two reads of x.
    loads = (tile.block_m * (2 if depthwise else 1) + tile.block_n) * depth * itemsize / 32
    store = tile.block_m * tile.block_n * itemsize / 32
    return cdiv(blocks, device.sms) * (compute + loads + store + 1500.0), -tile.block_m * tile.block_n
