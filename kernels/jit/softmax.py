# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Softmax over the last axis; see `kernels/softmax.py`."""

from __future__ import annotations

import triton
import triton.language as tl

from optgraph.kernels.jit.addressing import aligned


# fmt: off
@triton.jit
def softmax(
    x, out, rows, columns, x_row, out_row,  # M, N
    STRIDE_N: tl.constexpr, ONE_BLOCK: tl.constexpr, ALIGN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    columns = aligned(columns, ALIGN)
    m = (tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)  # [BLOCK_M]
    m_mask = (m < rows)[:, None]
    # Rows past the end repeat the last one: a row of nothing but -inf would be NaN.
    x_rows = x + (tl.minimum(m, rows - 1) * aligned(x_row, ALIGN))[:, None]
    out_rows = out + (m * aligned(out_row, ALIGN))[:, None]
    n = tl.arange(0, BLOCK_N)[None, :]
    # A maximum that ignores NaN is safe: the NaN itself then reaches the sum, and with it the whole row.
    if ONE_BLOCK:
        mask = n < columns  # [1, BLOCK_N]
        y = tl.load(x_rows + n * STRIDE_N, mask, other=float("-inf")).to(tl.float32)
        y = tl.exp(y - tl.max(y, axis=1)[:, None])
        tl.store(out_rows + n, (y / tl.sum(y, axis=1)[:, None]).to(out.dtype.element_ty), m_mask & mask)
    else:
        block_top = tl.full((BLOCK_M, BLOCK_N), float("-inf"), dtype=tl.float32)
        for start in range(0, columns, BLOCK_N):
            mask = n < columns - start
            y = tl.load(x_rows + (start + n) * STRIDE_N, mask, other=float("-inf"))
            block_top = tl.maximum(block_top, y.to(tl.float32))
        top = tl.max(block_top, axis=1)[:, None]
        block_sum = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for start in range(0, columns, BLOCK_N):
            mask = n < columns - start
            y = tl.load(x_rows + (start + n) * STRIDE_N, mask, other=float("-inf"))
            block_sum += tl.exp(y.to(tl.float32) - top)
        scale = 1.0 / tl.sum(block_sum, axis=1)[:, None]
        for start in range(0, columns, BLOCK_N):
            mask = n < columns - start
            y = tl.load(x_rows + (start + n) * STRIDE_N, mask, other=float("-inf"))
            y = tl.exp(y.to(tl.float32) - top) * scale
            tl.store(out_rows + start + n, y.to(out.dtype.element_ty), m_mask & mask)
# fmt: on
