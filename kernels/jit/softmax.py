# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Softmax over the last axis; see `kernels/softmax.py`."""

from __future__ import annotations

import triton
import triton.language as tl

from optgraph.kernels.jit.dependence import await_launches
from optgraph.kernels.jit.lines import element_offset, line_length, line_offset, line_width, lines_of_program


# fmt: off
@triton.jit
def softmax(
    x, out, lines,
    LOG: tl.constexpr, ONE_BLOCK: tl.constexpr, UNIT_W: tl.constexpr, UNIT_C: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    n, h, w = lines_of_program(lines, BLOCK_M)
    width, columns = line_width(lines, UNIT_W, ALIGN), line_length(lines, UNIT_C, ALIGN)
    # Lines past the end are read as zeros: one of nothing but -inf would be NaN.
    m_mask = (w < width)[:, None]
    x_lines = x + line_offset(n, h, w, lines.x_n, lines.x_h, lines.x_w, UNIT_W, ALIGN)[:, None]
    out_lines = out + line_offset(n, h, w, lines.out_n, lines.out_h, lines.out_w, UNIT_W, ALIGN)[:, None]
    c = tl.arange(0, BLOCK_N)[None, :]
    await_launches()
    # A maximum that ignores NaN is safe: the NaN itself then reaches the sum, and with it the whole line.
    if ONE_BLOCK:
        c_mask = c < columns  # [1, BLOCK_N]
        mask = m_mask & c_mask
        y = tl.load(x_lines + element_offset(c, lines.x_c, UNIT_C, ALIGN), mask, other=0.0).to(tl.float32)
        y = tl.where(c_mask, y, float("-inf"))
        y = y - tl.max(y, axis=1)[:, None]
        e = tl.exp(y)
        total = tl.sum(e, axis=1)[:, None]
        y = y - tl.log(total) if LOG else e / total
        tl.store(out_lines + element_offset(c, lines.out_c, UNIT_C, ALIGN), y.to(out.dtype.element_ty), mask)
    else:
        block_top = tl.full((BLOCK_M, BLOCK_N), float("-inf"), dtype=tl.float32)
        for start in range(0, columns, BLOCK_N):
            c_mask = c < columns - start
            place = element_offset(start + c, lines.x_c, UNIT_C, ALIGN)
            y = tl.load(x_lines + place, m_mask & c_mask, other=0.0).to(tl.float32)
            block_top = tl.maximum(block_top, tl.where(c_mask, y, float("-inf")))
        top = tl.max(block_top, axis=1)[:, None]
        block_sum = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for start in range(0, columns, BLOCK_N):
            c_mask = c < columns - start
            place = element_offset(start + c, lines.x_c, UNIT_C, ALIGN)
            y = tl.load(x_lines + place, m_mask & c_mask, other=0.0).to(tl.float32)
            block_sum += tl.exp(tl.where(c_mask, y, float("-inf")) - top)
        total = tl.sum(block_sum, axis=1)[:, None]
        for start in range(0, columns, BLOCK_N):
            mask = m_mask & (c < columns - start)
            place = element_offset(start + c, lines.x_c, UNIT_C, ALIGN)
            y = tl.load(x_lines + place, mask, other=0.0).to(tl.float32) - top
            y = y - tl.log(total) if LOG else tl.exp(y) * (1.0 / total)
            place = element_offset(start + c, lines.out_c, UNIT_C, ALIGN)
            tl.store(out_lines + place, y.to(out.dtype.element_ty), mask)
# fmt: on
