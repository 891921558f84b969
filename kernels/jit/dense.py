# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""A fully connected layer; see `kernels/dense.py`."""

from __future__ import annotations

import triton
import triton.language as tl

from optgraph.kernels.jit.addressing import aligned
from optgraph.kernels.jit.dependence import await_launches, fetch
from optgraph.kernels.jit.epilogue import activated, multiplicand, prologue, started
from optgraph.kernels.jit.grid import settled


# fmt: off
@triton.jit
def dense(
    x, weight, out, pre, end, rows, columns, channels, x_row, out_row,  # M, N, K
    STRIDE_K: tl.constexpr, INTEGERS: tl.constexpr, PRECISION: tl.constexpr,
    ALIGN_K: tl.constexpr, ALIGN_N: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):
    columns = aligned(columns, ALIGN_N)
    m = (tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)  # [BLOCK_M]
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)  # [BLOCK_N]
    k = tl.arange(0, BLOCK_K)
    m_mask = m < rows
    n_mask = n < columns
    x_block = x + (m * aligned(x_row, ALIGN_K))[:, None] + (k * STRIDE_K)[None, :]  # [BLOCK_M, BLOCK_K]
    if INTEGERS:  # by columns: the tensor cores want bytes of a column side by side
        weight_block = weight + n[:, None].to(tl.int64) * aligned(channels, ALIGN_K) + k[None, :]  # [BLOCK_N, BLOCK_K]
    else:
        weight_block = weight + (k * columns)[:, None] + n[None, :]  # [BLOCK_K, BLOCK_N]
    fetch(weight, channels * columns)
    fetch(end.bias, columns)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.int32 if INTEGERS else tl.float32)
    acc = started(acc, end, n, n_mask)
    await_launches()
    for base in range(0, channels, BLOCK_K):
        k_mask = k < aligned(channels, ALIGN_K) - base
        a = tl.load(x_block, m_mask[:, None] & k_mask[None, :], other=0.0)
        if INTEGERS:
            w = tl.load(weight_block, n_mask[:, None] & k_mask[None, :], other=0.0)
            acc = tl.dot(a, w.T, acc, out_dtype=tl.int32)
            weight_block += BLOCK_K
        else:
            w = tl.load(weight_block, k_mask[:, None] & n_mask[None, :], other=0.0)
            if pre.act is not None:
                a = prologue(a, pre, base + k, k_mask)
            acc = tl.dot(multiplicand(a.to(w.dtype), PRECISION), w, acc, input_precision=PRECISION)
            weight_block += BLOCK_K * columns
        x_block += BLOCK_K * STRIDE_K
    y = activated(acc, end, n, n_mask)
    out_block = out + (m * aligned(out_row, ALIGN_N))[:, None] + n[None, :]
    tl.store(out_block, settled(y, end, out.dtype.element_ty), m_mask[:, None] & n_mask[None, :])
# fmt: on
