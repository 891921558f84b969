"""Tiles of the kernels that only move bytes, and the order in which a window's pixels are visited: pure functions."""

from __future__ import annotations

import math

from optgraph.base.devices import Target
from optgraph.ir.values import Window
from optgraph.kernels.frame.tile import Tile, cdiv, ceil_pow2


def alignment(*sizes: int) -> int:
    """The largest power of two, up to 8, that divides every channel count and every stride between pixels.

    Eight halves are 16 bytes, the widest load there is; see `jit/addressing.py`.
    """
    return math.gcd(8, *sizes)


def row_tile(pixels: int, channels: int, itemsize: int, target: Target, stages: int = 3) -> Tile:
    """The tile of a bandwidth-bound kernel over [pixels, channels]."""
    if not target.interpreted:
        # Four warps, sixteen bytes a thread and load: neighbouring threads read neighbouring channels of a pixel.
        block_n = max(16, min(ceil_pow2(channels), 256 // itemsize))
        return Tile(max(1, 4096 // itemsize // block_n), block_n, num_stages=stages)
    # In the interpreter a program costs about as much as 2^15 elements.
    blocks = [
        (2**i, 2**j) for i in range(ceil_pow2(pixels).bit_length()) for j in range(ceil_pow2(channels).bit_length())
    ]
    fitting = ((m, n) for m, n in blocks if m * n <= 2**18)
    best = min(fitting, key=lambda b: cdiv(pixels, b[0]) * cdiv(channels, b[1]) * (b[0] * b[1] + 2**15))
    return Tile(*best, num_stages=stages)


def strip_rows(height: int, kernel: int, stride: int, block_m: int, target: Target) -> int:
    """Rows of a strip: few lanes wasted below the image, few input rows read by two strips."""
    if target.interpreted:
        return 1

    def cost(strip: int) -> float:
        wasted = cdiv(height, strip) * strip / height
        return wasted * (1 + max(0, kernel - stride) / (strip * stride))

    return min((s for s in (1, 2, 4, 8) if s * s <= block_m), key=cost)


def patch_rows(height: int, width: int, window: Window, block_m: int, target: Target) -> int:
    """Rows of a strip for a block that goes on to a product. On a narrow map it spans several rows by itself; on a wide
    one it takes a patch, for its windows to overlap."""
    return 1 if 2 * width <= block_m else strip_rows(height, window.kernel[0], window.stride[0], block_m, target)


def positions(batch: int, height: int, width: int, strip: int) -> int:
    """How many positions a kernel visits that goes down `strip` rows before it goes right."""
    return batch * cdiv(height, strip) * strip * width


def unrolled(kernel: int) -> int:
    """How many taps along a row to unroll: the largest divisor of the row that keeps code and registers small."""
    return max(d for d in range(1, 9) if kernel % d == 0)
