# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Normalisation of the last axis; see `kernels/normalise.py`."""

from __future__ import annotations

import triton
import triton.language as tl

from optgraph.kernels.jit.dependence import await_launches
from optgraph.kernels.jit.lines import element_offset, line_length, line_offset, line_width, lines_of_program


@triton.jit
def scaled(y, scale, shift, w, c, m_mask, c_mask, BY_LINE: tl.constexpr):
    """y * scale + shift of lines [BLOCK_M, 1] and elements [1, BLOCK_N]; either may be None."""
    if BY_LINE:
        place, mask = w, m_mask
    else:
        place, mask = c, c_mask
    if scale is not None:
        y *= tl.load(scale + place, mask, other=0.0)
    if shift is not None:
        y += tl.load(shift + place, mask, other=0.0)
    return y


# fmt: off
@triton.jit
def normalise(
    x, out, lines, scale, shift, epsilon,
    BY_LINE: tl.constexpr, ONE_BLOCK: tl.constexpr, UNIT_W: tl.constexpr, UNIT_C: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    n, h, w = lines_of_program(lines, BLOCK_M)
    width, columns = line_width(lines, UNIT_W, ALIGN), line_length(lines, UNIT_C, ALIGN)
    m_mask = (w < width)[:, None]
    x_lines = x + line_offset(n, h, w, lines.x_n, lines.x_h, lines.x_w, UNIT_W, ALIGN)[:, None]
    out_lines = out + line_offset(n, h, w, lines.out_n, lines.out_h, lines.out_w, UNIT_W, ALIGN)[:, None]
    c = tl.arange(0, BLOCK_N)[None, :]
    w = w[:, None]
    await_launches()
    if ONE_BLOCK:
        c_mask = c < columns
        mask = m_mask & c_mask
        y = tl.load(x_lines + element_offset(c, lines.x_c, UNIT_C, ALIGN), mask, other=0.0).to(tl.float32)
        y = tl.where(c_mask, y - tl.sum(y, axis=1)[:, None] / columns, 0.0)
        y = y / tl.sqrt_rn(tl.sum(y * y, axis=1)[:, None] / columns + epsilon)
        y = scaled(y, scale, shift, w, c, m_mask, c_mask, BY_LINE)
        tl.store(out_lines + element_offset(c, lines.out_c, UNIT_C, ALIGN), y.to(out.dtype.element_ty), mask)
    else:
        total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for start in range(0, columns, BLOCK_N):
            place = element_offset(start + c, lines.x_c, UNIT_C, ALIGN)
            total += tl.load(x_lines + place, m_mask & (c < columns - start), other=0.0).to(tl.float32)
        mean = tl.sum(total, axis=1)[:, None] / columns
        squares = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for start in range(0, columns, BLOCK_N):
            c_mask = c < columns - start
            place = element_offset(start + c, lines.x_c, UNIT_C, ALIGN)
            y = tl.load(x_lines + place, m_mask & c_mask, other=0.0).to(tl.float32)
            y = tl.where(c_mask, y - mean, 0.0)
            squares += y * y
        factor = 1.0 / tl.sqrt_rn(tl.sum(squares, axis=1)[:, None] / columns + epsilon)
        for start in range(0, columns, BLOCK_N):
            c_mask = c < columns - start
            place = element_offset(start + c, lines.x_c, UNIT_C, ALIGN)
            y = (tl.load(x_lines + place, m_mask & c_mask, other=0.0).to(tl.float32) - mean) * factor
            y = scaled(y, scale, shift, w, start + c, m_mask, c_mask, BY_LINE)
            place = element_offset(start + c, lines.out_c, UNIT_C, ALIGN)
            tl.store(out_lines + place, y.to(out.dtype.element_ty), m_mask & c_mask)
# fmt: on
