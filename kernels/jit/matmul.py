# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Products of matrices of any strides; see `kernels/matmul.py`."""

from __future__ import annotations

import triton
import triton.language as tl

from optgraph.kernels.jit.addressing import aligned
from optgraph.kernels.jit.dependence import await_launches
from optgraph.kernels.jit.epilogue import multiplicand
from optgraph.kernels.jit.lines import element_offset


@triton.jit
def length(size, UNIT: tl.constexpr, ALIGN: tl.constexpr):
    """The size of an axis, along which loads are wide if an operand has stride 1 there."""
    if UNIT:
        return aligned(size, ALIGN)
    else:
        return size


@triton.jit
def first_element(strides, g, h, ALIGN: tl.constexpr):
    """Where matrix (g, h) begins, int64."""
    return g.to(tl.int64) * aligned(strides[0], ALIGN) + h.to(tl.int64) * aligned(strides[1], ALIGN)


# fmt: off
@triton.jit
def matmul(
    x, y, out,
    size,  # H, M, N, K
    x_strides, y_strides, out_strides,  # of (g, h, m, k), (g, h, k, n), (g, h, m, n)
    X_M: tl.constexpr, X_K: tl.constexpr, Y_K: tl.constexpr, Y_N: tl.constexpr,  # which strides are 1
    OUT_M: tl.constexpr, OUT_N: tl.constexpr,
    PRECISION: tl.constexpr, ALIGN: tl.constexpr, ALIGN_OUT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):
    rows, columns, depth = length(size[1], X_M, ALIGN), length(size[2], Y_N, ALIGN), length(size[3], X_K or Y_K, ALIGN)
    tiles_m, tiles_n = tl.cdiv(rows, BLOCK_M), tl.cdiv(columns, BLOCK_N)
    matrix, tile = tl.program_id(0) // (tiles_m * tiles_n), tl.program_id(0) % (tiles_m * tiles_n)
    g, h = matrix // size[0], matrix % size[0]
    m = tile % tiles_m * BLOCK_M + tl.arange(0, BLOCK_M)  # [BLOCK_M]
    n = tile // tiles_m * BLOCK_N + tl.arange(0, BLOCK_N)  # [BLOCK_N]
    k = tl.arange(0, BLOCK_K)
    m_mask = m < rows
    n_mask = n < columns
    x_rows = x + first_element(x_strides, g, h, ALIGN) + element_offset(m, x_strides[2], X_M, ALIGN)
    y_columns = y + first_element(y_strides, g, h, ALIGN) + element_offset(n, y_strides[3], Y_N, ALIGN)
    await_launches()
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for base in range(0, depth, BLOCK_K):
        k_mask = k < depth - base
        x_block = x_rows[:, None] + element_offset(base + k, x_strides[3], X_K, ALIGN)[None, :]
        y_block = y_columns[None, :] + element_offset(base + k, y_strides[2], Y_K, ALIGN)[:, None]
        a = tl.load(x_block, m_mask[:, None] & k_mask[None, :], other=0.0)  # [BLOCK_M, BLOCK_K]
        b = tl.load(y_block, k_mask[:, None] & n_mask[None, :], other=0.0)  # [BLOCK_K, BLOCK_N]
        if a.dtype != b.dtype:  # a value that is kept in float32 beside one that is not
            a, b = a.to(tl.float32), b.to(tl.float32)
        acc = tl.dot(multiplicand(a, PRECISION), multiplicand(b, PRECISION), acc, input_precision=PRECISION)
    m_mask, n_mask = m < length(size[1], OUT_M, ALIGN_OUT), n < length(size[2], OUT_N, ALIGN_OUT)
    out_rows = out + first_element(out_strides, g, h, ALIGN_OUT) + element_offset(m, out_strides[2], OUT_M, ALIGN_OUT)
    out_block = out_rows[:, None] + element_offset(n, out_strides[3], OUT_N, ALIGN_OUT)[None, :]
    tl.store(out_block, acc.to(out.dtype.element_ty), m_mask[:, None] & n_mask[None, :])
# fmt: on
