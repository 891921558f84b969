"""Tiles of the kernels that only move bytes, and the order in which a window's pixels are visited: pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from optgraph.base.devices import Target
from optgraph.ir.values import Pair, Window
from optgraph.kernels.frame.tile import Box, Problem, Tile, cdiv, ceil_pow2

_ROWS = (1, 2, 4)
_TAPS = 9  # of a window whose code has no loop: of more, their weights would not fit the registers


def alignment(*sizes: int, itemsize: int = 2) -> int:
    """The largest power of two, up to 8, that divides every channel count and every stride between pixels; of int8,
    itemsize 1, up to 16.

    Eight halves are 16 bytes, the widest load there is; see `jit/addressing.py`.
    """
    return math.gcd(16 if itemsize == 1 else 8, *sizes)


def row_tile(pixels: int, channels: int, itemsize: int, target: Target, stages: int = 3, loads: int = 2) -> Tile:
    """The tile of a bandwidth-bound kernel over [pixels, channels], a thread of which has `loads` of 16 bytes."""
    if not target.interpreted:
        # Four warps: neighbouring threads read neighbouring channels of a pixel, which has three where an image begins.
        block_n = max(4, min(ceil_pow2(channels), 256 // itemsize))
        return Tile(max(1, 2048 * loads // itemsize // block_n), block_n, num_stages=stages)
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


@dataclass(frozen=True)
class Windows(Problem):
    """A launch that reduces windows channel by channel, as far as its tile depends on it.

    extent: output pixels, as (images, rows, columns).  stride: down the image.  dilated: so are the windows.
    """

    kernel_name: str
    extent: Box
    channels: int
    kernel: Pair
    stride: int
    dilated: bool
    itemsize: int

    @property
    def unrolled(self) -> Pair:
        """Taps that are unrolled, down and along the window: all, if they are few."""
        kh, kw = self.kernel
        return self.kernel if kh * kw <= _TAPS else (1, unrolled(kw))

    def reads(self, rows: int) -> int:
        """Rows of the input that a program reads for so many of the output, each once."""
        return (rows - 1) * self.stride + self.kernel[0]

    def candidates(self, target: Target) -> list[Tile]:
        """Several rows a program only where windows overlap, and none of them is in a loop."""
        whole = self.unrolled == self.kernel and not self.dilated
        found = [r for r in _ROWS if r == 1 or (whole and self.reads(r) < r * self.kernel[0])]
        return sorted((self._tile(rows, target) for rows in found), key=lambda tile: self._cost(tile, target))

    def _tile(self, rows: int, target: Target) -> Tile:
        images, height, width = self.extent
        visited = images * cdiv(height, rows) * width
        # One stage: software pipelining would stage every tap's loads in shared memory.
        # Of int8 as many channels a thread as of fp16, for a depthwise convolution of more would have more sums than
        # registers; but a pool, whose sums are of 16 bits, twice as many.
        pooled = self.kernel_name == "pool" and self.itemsize == 1
        loads = 1 if self.unrolled == self.kernel and not pooled else 2
        return replace(row_tile(visited, self.channels, max(2, self.itemsize), target, 1, loads), rows=rows)

    def _cost(self, tile: Tile, target: Target) -> int:
        """Rows that the busiest SM reads: the instructions of a program are as many (`python -m benchmarks.loops`). Of
        a program alone on its SM nothing hides the waits for its loads: it counts for two."""
        images, height, width = self.extent
        visited = images * cdiv(height, tile.rows) * width
        programs = cdiv(visited, tile.block_m) * cdiv(self.channels, tile.block_n)
        if target.interpreted:
            return programs * tile.block_m * tile.block_n * self.reads(tile.rows)
        return max(2, cdiv(programs, target.device.sms)) * self.reads(tile.rows)


def unrolled(kernel: int) -> int:
    """How many taps along a row to unroll: the largest divisor of the row that keeps code and registers small."""
    return max(d for d in range(1, 9) if kernel % d == 0)
