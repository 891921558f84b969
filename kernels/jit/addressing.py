# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Addressing that kernels share: vector alignment and the order in which pixels are visited.

A 16-byte load needs a proof that its address and mask come in groups of 8 (fp16) or 4 (fp32) channels. Sizes are
run-time arguments, of which the compiler knows nothing: without the proof, loads are scalar and not prefetched.
`alignment` (`frame/rows.py`) finds the divisor at launch and `aligned` states it inside the kernel.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def aligned(size, ALIGN: tl.constexpr):
    """`size` itself, known to the compiler as a multiple of ALIGN."""
    return size // ALIGN * ALIGN


@triton.jit
def pixel_offset(pixel, height, width, stride_n, stride_h, stride_w, ALIGN: tl.constexpr):
    """Offset (int64) of pixel number `pixel` (int32) of an [N, H, W, C] tensor of strides that ALIGN divides."""
    stride_n, stride_h, stride_w = aligned(stride_n, ALIGN), aligned(stride_h, ALIGN), aligned(stride_w, ALIGN)
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


@triton.jit
def within(index, size):
    """0 <= index < size (int32) in one comparison: without its sign, what is below zero is large."""
    return index.to(tl.uint32) < size.to(tl.uint32)
