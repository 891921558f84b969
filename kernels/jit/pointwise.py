# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""1x1 convolution as a GEMM whose columns may belong to several outputs; see `kernels/pointwise.py`."""

from __future__ import annotations

import triton
import triton.language as tl

from optgraph.kernels.jit.dependence import await_launches, fetch
from optgraph.kernels.jit.epilogue import activated, biased, multiplicand, prologue, started, store_rows
from optgraph.kernels.jit.grid import nearest, settled_last
from optgraph.kernels.jit.split_k import joined, span


@triton.jit
def _of(values, FIRST: tl.constexpr, segment):
    """Of four values from FIRST on, that of a segment."""
    y = tl.where(segment == 1, values[FIRST + 1], values[FIRST])
    return tl.where(segment == 2, values[FIRST + 2], tl.where(segment == 3, values[FIRST + 3], y))


# fmt: off
@triton.jit
def pointwise(
    x, weight, ahead, workspace, pre, end,  # ahead: the weight as it lies, if it comes by TMA
    size, splits,  # M, Ho*Wo, Wo, K, sum C_i
    strides,  # of x, the convolution's included
    outs, sizes, out_rows, act_bits,  # outputs, their columns and row strides, and which of them have the activation
    grids,  # theirs: four last scales, inverses and zeros, then these of the first grids, 0 for those of one
    STRIDE_C: tl.constexpr, TMA: tl.constexpr, FLAT: tl.constexpr, SEGMENTED: tl.constexpr, GRIDS: tl.constexpr,
    INTEGERS: tl.constexpr, CLEAR_K: tl.constexpr,
    SPLIT: tl.constexpr, PRECISION: tl.constexpr, ALIGN_K: tl.constexpr, ALIGN_N: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):
    rows, pixels, width = size[0], size[1], size[2]
    # Shows the compiler the divisibility of sizes (see addressing).
    channels = size[3] // ALIGN_K * ALIGN_K
    stride_n, stride_h = strides[0] // ALIGN_K * ALIGN_K, strides[1] // ALIGN_K * ALIGN_K
    stride_w = strides[2] // ALIGN_K * ALIGN_K
    columns = size[4] // ALIGN_N * ALIGN_N
    columns0 = sizes[0] // ALIGN_N * ALIGN_N
    # Column tiles are counted per segment, so that none straddles two outputs.
    tiles_n = tl.cdiv(columns0, BLOCK_N)
    if SEGMENTED:
        columns1, columns2 = sizes[1] // ALIGN_N * ALIGN_N, sizes[2] // ALIGN_N * ALIGN_N
        columns3 = sizes[3] // ALIGN_N * ALIGN_N
        end0 = tiles_n
        end1 = end0 + tl.cdiv(columns1, BLOCK_N)
        end2 = end1 + tl.cdiv(columns2, BLOCK_N)
        tiles_n = end2 + tl.cdiv(columns3, BLOCK_N)
    # GROUP_M row tiles walk the columns together: both operands stay in L2.
    tiles_m = tl.cdiv(rows, BLOCK_M)
    pid = tl.program_id(0)
    first_m = pid // (GROUP_M * tiles_n) * GROUP_M
    group = tl.minimum(tiles_m - first_m, GROUP_M)
    within = pid % (GROUP_M * tiles_n)
    pid_m = first_m + within % group
    pid_n = within // group

    out, own, row, start, first_n, segment = outs[0], columns0, out_rows[0], 0, 0, 0
    if SEGMENTED:
        if pid_n >= end0:
            out, own, row, start, first_n, segment = outs[1], columns1, out_rows[1], columns0, end0, 1
        if pid_n >= end1:
            out, own, row, start, first_n, segment = outs[2], columns2, out_rows[2], columns0 + columns1, end1, 2
        if pid_n >= end2:
            start = columns0 + columns1 + columns2
            out, own, row, first_n, segment = outs[3], columns3, out_rows[3], end2, 3

    first_column = (pid_n - first_n) * BLOCK_N  # within the segment
    m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)  # [BLOCK_M]
    n = first_column + tl.arange(0, BLOCK_N)  # [BLOCK_N]
    k = tl.arange(0, BLOCK_K)
    m_mask = m < rows
    n_mask = n < own
    if not TMA:
        if FLAT:
            offsets = m.to(tl.int64) * stride_w
        else:
            offsets = (m // pixels).to(tl.int64) * stride_n
            offsets += (m % pixels // width).to(tl.int64) * stride_h + (m % width).to(tl.int64) * stride_w
        x_block = x + offsets[:, None] + (k * STRIDE_C)[None, :]  # [BLOCK_M, BLOCK_K]
        if INTEGERS:  # by columns: the tensor cores want bytes of a column side by side
            weight_block = weight + (start + n)[:, None].to(tl.int64) * channels + k[None, :]  # [BLOCK_N, BLOCK_K]
        else:
            weight_block = weight + k[:, None] * columns + (start + n)[None, :]  # [BLOCK_K, BLOCK_N]

    steps = tl.cdiv(channels, BLOCK_K)
    first, last = 0, steps
    if SPLIT:
        first, last = span(steps, tl.program_id(1), splits)
    if TMA:
        fetch(ahead, channels * columns)
        fetch(end.bias, columns)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.int32 if INTEGERS else tl.float32)
    if INTEGERS:  # of the programs that share a sum, the first begins with it
        acc = started(acc, end, start + n, n_mask & (tl.program_id(1) == 0) if SPLIT else n_mask)
    await_launches()
    for step in range(first, last):
        base = step * BLOCK_K
        if TMA:
            # Zeros beyond the depth. Columns may be the next segment's: they are never stored.
            a = x.load([pid_m * BLOCK_M, base])
            w = weight.load([start + first_column, base]) if INTEGERS else weight.load([base, start + first_column])
        else:
            k_mask = k < channels - base
            a = tl.load(x_block + base * STRIDE_C, m_mask[:, None] & k_mask[None, :], other=0.0)
            if INTEGERS:
                w = tl.load(weight_block + base, n_mask[:, None] & k_mask[None, :], other=0.0)
            else:
                w = tl.load(weight_block + base * columns, k_mask[:, None] & n_mask[None, :], other=0.0)
        if pre.act is not None:
            a = prologue(a, pre, base + k, k < channels - base)
            if CLEAR_K:
                a = tl.where((k < channels - base)[None, :], a, 0.0)
        if INTEGERS:
            acc = tl.dot(a, w.T, acc, out_dtype=tl.int32)
        else:
            acc = tl.dot(multiplicand(a.to(w.dtype), PRECISION), w, acc, input_precision=PRECISION)

    whole = True
    if SPLIT:
        acc, whole = joined(acc, workspace, pid, tl.program_id(1), splits, BLOCK_M, BLOCK_N)
    if whole:
        if SEGMENTED:
            y = biased(acc, end, start + n, n_mask)
            if (act_bits >> segment) & 1:
                y = end.act(y, end.a, end.b)
        else:
            y = activated(acc, end, n, n_mask)
        if GRIDS > 0:
            if GRIDS > 1:
                first_scale = _of(grids, 12, segment)
                if first_scale > 0.0:
                    y = nearest(y, first_scale, _of(grids, 16, segment), _of(grids, 20, segment))
            scale, inverse, zero = _of(grids, 0, segment), _of(grids, 4, segment), _of(grids, 8, segment)
            stored = settled_last(y, scale, inverse, zero, out.dtype.element_ty)
            row = row // ALIGN_N * ALIGN_N
            tl.store(out + m.to(tl.int64)[:, None] * row + n[None, :], stored, m_mask[:, None] & n_mask[None, :])
        else:
            store_rows(y, end, out, row, m.to(tl.int64), n, m_mask, n_mask, ALIGN_N)
# fmt: on
