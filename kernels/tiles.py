"""Tile choice: pure functions of the problem size and the target, testable with no GPU.

`target` is "interpret" or "sm_80", "sm_90", ... On a GPU a tile trades reuse (a big block reads each operand fewer
times) against occupancy (a small map at batch 1 has few blocks, and 108 or 132 SMs to fill). Triton's interpreter runs
programs one after another with numpy inside: there, the biggest block with little padding wins.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_NUMEL = 2**20  # Triton's limit on the elements of one block
_SMS = {"sm_80": 108, "sm_86": 84, "sm_89": 128, "sm_90": 132}


@dataclass(frozen=True)
class Tile:
    """Block sizes of one launch: powers of two; those of a tl.dot are at least 16."""

    block_m: int
    block_n: int
    block_k: int = 32
    num_warps: int = 4
    num_stages: int = 3


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


def ceil_pow2(x: int) -> int:
    return 1 << max(0, x - 1).bit_length()


def _clamp_pow2(x: int, low: int, high: int) -> int:
    return max(low, min(high, ceil_pow2(x)))


def gemm(m: int, n: int, k: int, itemsize: int, target: str) -> Tile:
    """Tile of an [m, k] x [k, n] GEMM; `m` counts output pixels, implicit GEMM included."""
    if target == "interpret":
        return Tile(_clamp_pow2(m, 16, 2048), _clamp_pow2(n, 16, 512), _clamp_pow2(k, 16, 256))
    return Tile(64, 64, 32)


def separable(m: int, n: int, c: int, itemsize: int, target: str) -> Tile:
    """Tile of a depthwise convolution feeding a GEMM [m, c] x [c, n]: every n-block repeats the depthwise."""
    if target == "interpret":
        block_n = _clamp_pow2(n, 16, 2048)
        return Tile(min(_clamp_pow2(m, 16, 2048), MAX_NUMEL // block_n), block_n, _clamp_pow2(c, 16, 256))
    return Tile(64, 256, 64, num_warps=8, num_stages=1)


def rows(m: int, c: int, itemsize: int, target: str) -> tuple[int, int]:
    """(block_m pixels, block_n channels) of a bandwidth-bound kernel over [m, c]."""
    if target == "interpret":
        block_n = _clamp_pow2(c, 1, 4096)
        return _clamp_pow2(m, 1, 2**18 // block_n), block_n
    block_n = _clamp_pow2(c, 16, 64 if itemsize == 4 else 128)
    return _clamp_pow2(m, 1, 2048 // block_n), block_n
