# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""A copy between any strides; see `kernels/copy.py`."""

from __future__ import annotations

import triton
import triton.language as tl

from optgraph.kernels.jit.addressing import aligned
from optgraph.kernels.jit.dependence import await_launches


# fmt: off
@triton.jit
def copy(
    x, out, sizes, x_strides, out_strides, rows, columns,
    X_COLUMN: tl.constexpr, OUT_COLUMN: tl.constexpr,
    ALIGN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)  # [BLOCK_M]
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)  # [BLOCK_N]
    mask = (row < rows)[:, None] & (column < aligned(columns, ALIGN))[None, :]  # [BLOCK_M, BLOCK_N]
    x_row = tl.zeros((BLOCK_M,), dtype=tl.int64)
    out_row = tl.zeros((BLOCK_M,), dtype=tl.int64)
    for axis in tl.static_range(7):
        i = (row % sizes[axis]).to(tl.int64)
        row = row // sizes[axis]
        x_row += i * aligned(x_strides[axis], ALIGN)
        out_row += i * aligned(out_strides[axis], ALIGN)
    await_launches()
    y = tl.load(x + x_row[:, None] + (column * X_COLUMN)[None, :], mask, other=0.0)
    tl.store(out + out_row[:, None] + (column * OUT_COLUMN)[None, :], y.to(out.dtype.element_ty), mask)
# fmt: on
