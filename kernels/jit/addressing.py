# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Addressing that kernels share: vector alignment and the order in which pixels are visited.

A 16-byte load needs a proof that its address and mask come in groups of 8 (fp16) or 4 (fp32) channels. Sizes are
run-time arguments, of which the compiler knows nothing: without the proof, loads are scalar and not prefetched.
`alignment` finds the divisor at launch and `aligned` states it inside the kernel.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

from optgraph.kernels.frame.choice import Tile, cdiv, ceil_pow2, rows


@triton.jit
def aligned(size, ALIGN: tl.constexpr):
    """`size` itself, known to the compiler as a multiple of ALIGN."""
    return size // ALIGN * ALIGN


@triton.jit
def pixel_offset(pixel, height, width, stride_n, stride_h, stride_w):
    """Offset (int64) of pixel number `pixel` (int32) of an [N, H, W, C] tensor of any strides."""
    # The divisions stay in int32, several times faster than int64; only the products can pass 2^31.
    row = pixel // width
    n = row // height
    return n.to(tl.int64) * stride_n + (row % height).to(tl.int64) * stride_h + (pixel % width).to(tl.int64) * stride_w


@triton.jit
def strip_position(index, height, width, STRIP: tl.constexpr):
    """(n, h, w) of position `index`, going down STRIP rows before going right; h >= height is outside.

    A block of neighbouring positions is then a near-square patch of the image, whose window reads overlap in L1.
    """
    column = index // STRIP
    strip = column // width
    strips = (height + STRIP - 1) // STRIP
    return strip // strips, strip % strips * STRIP + index % STRIP, column % width


def alignment(*sizes: int) -> int:
    """The largest power of two, up to 8, that divides every channel count and every stride between pixels.

    Eight halves are 16 bytes, the widest load there is.
    """
    return math.gcd(8, *sizes)


def row_tile(pixels: int, channels: int, itemsize: int, target: str) -> Tile:
    """The tile of a bandwidth-bound kernel over [pixels, channels]."""
    if target != "interpret":
        return Tile(*rows(pixels, channels, itemsize, target))
    # In the interpreter a program costs about as much as 2^15 elements.
    blocks = [
        (2**i, 2**j) for i in range(ceil_pow2(pixels).bit_length()) for j in range(ceil_pow2(channels).bit_length())
    ]
    fitting = ((m, n) for m, n in blocks if m * n <= 2**18)
    return Tile(*min(fitting, key=lambda b: cdiv(pixels, b[0]) * cdiv(channels, b[1]) * (b[0] * b[1] + 2**15)))


def strip_rows(height: int, kernel: int, stride: int, block_m: int, target: str) -> int:
    """Rows of a strip: few lanes wasted below the image, few input rows read by two strips."""
    if target == "interpret":
        return 1

    def cost(strip: int) -> float:
        wasted = cdiv(height, strip) * strip / height
        return wasted * (1 + max(0, kernel - stride) / (strip * stride))

    return min((s for s in (1, 2, 4, 8) if s * s <= block_m), key=cost)


def unrolled(kernel: int) -> int:
    """How many taps along a row to unroll: the largest divisor of the row that keeps code and registers small."""
    return max(d for d in range(1, 9) if kernel % d == 0)
