# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Where the lines of a program lie; see `frame/lines.py`."""

from __future__ import annotations

import triton
import triton.language as tl

from optgraph.kernels.jit.addressing import aligned


@triton.jit
def lines_of_program(lines, BLOCK_M: tl.constexpr):
    """(n, h, w) of this program's lines; w is [BLOCK_M], and may pass the width."""
    blocks = (lines.width + BLOCK_M - 1) // BLOCK_M
    program = tl.program_id(0)
    row = program // blocks
    return row // lines.height, row % lines.height, program % blocks * BLOCK_M + tl.arange(0, BLOCK_M)


@triton.jit
def line_offset(n, h, w, stride_n, stride_h, stride_w, UNIT_W: tl.constexpr, ALIGN: tl.constexpr):
    """Where lines (n, h, w) begin, int64."""
    first = n.to(tl.int64) * aligned(stride_n, ALIGN) + h.to(tl.int64) * aligned(stride_h, ALIGN)
    if UNIT_W:
        return first + w
    else:
        return first + w.to(tl.int64) * aligned(stride_w, ALIGN)


@triton.jit
def element_offset(c, stride_c, UNIT_C: tl.constexpr, ALIGN: tl.constexpr):
    """Where elements `c` of a line are in it."""
    if UNIT_C:
        return c
    else:
        return c.to(tl.int64) * aligned(stride_c, ALIGN)


@triton.jit
def line_width(lines, UNIT_W: tl.constexpr, ALIGN: tl.constexpr):
    """How many lines a row has."""
    if UNIT_W:
        return aligned(lines.width, ALIGN)
    else:
        return lines.width


@triton.jit
def line_length(lines, UNIT_C: tl.constexpr, ALIGN: tl.constexpr):
    """How many elements a line has."""
    if UNIT_C:
        return aligned(lines.columns, ALIGN)
    else:
        return lines.columns
