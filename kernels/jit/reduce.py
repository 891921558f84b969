# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Reductions of the last axis; see `kernels/reduce.py`."""

from __future__ import annotations

import triton
import triton.language as tl

from optgraph.kernels.jit.dependence import await_launches
from optgraph.kernels.jit.lines import element_offset, line_length, line_offset, line_width, lines_of_program


@triton.jit
def extremum(acc, HIGH: tl.constexpr):
    """The maximum or minimum of each row of [BLOCK_M, BLOCK_N]; the reductions themselves drop a NaN."""
    broken = tl.max((acc != acc).to(tl.int32), axis=1) > 0
    if HIGH:
        y = tl.max(tl.where(acc != acc, float("-inf"), acc), axis=1)
    else:
        y = tl.min(tl.where(acc != acc, float("inf"), acc), axis=1)
    return tl.where(broken, float("nan"), y)


# fmt: off
@triton.jit
def reduce(
    x, out, lines, first, scale, post,
    KIND: tl.constexpr, UNIT_W: tl.constexpr, UNIT_C: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    n, h, w = lines_of_program(lines, BLOCK_M)
    width, columns = line_width(lines, UNIT_W, ALIGN), line_length(lines, UNIT_C, ALIGN)
    m_mask = w < width
    x_lines = x + line_offset(n, h, w, lines.x_n, lines.x_h, lines.x_w, UNIT_W, ALIGN)[:, None]
    c = tl.arange(0, BLOCK_N)[None, :]
    await_launches()
    neutral = 0.0
    if KIND == "prod":
        neutral = 1.0
    elif KIND == "max":
        neutral = float("-inf")
    elif KIND == "min":
        neutral = float("inf")
    acc = tl.full((BLOCK_M, BLOCK_N), neutral, dtype=tl.float32)
    for start in range(0, columns, BLOCK_N):
        mask = m_mask[:, None] & (c < columns - start)
        v = tl.load(x_lines + element_offset(start + c, lines.x_c, UNIT_C, ALIGN), mask, other=0.0).to(tl.float32)
        v = tl.where(mask, first.fn(v, first.a, first.b), neutral)
        if KIND == "sum":
            acc += v
        elif KIND == "prod":
            acc *= v
        elif KIND == "max":
            acc = tl.maximum(acc, v, propagate_nan=tl.PropagateNan.ALL)
        else:
            acc = tl.minimum(acc, v, propagate_nan=tl.PropagateNan.ALL)
    # Of products there is one.
    y = extremum(acc, KIND == "max") if KIND == "max" or KIND == "min" else tl.sum(acc, axis=1)
    y *= scale
    y = post.fn(y, post.a, post.b)
    place = line_offset(n, h, w, lines.out_n, lines.out_h, lines.out_w, False, 1)
    tl.store(out + place, y.to(out.dtype.element_ty), m_mask)
# fmt: on
