# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""What every GEMM-like kernel does around its product: y = post(act(op(pre(x)) + bias) + residual).

`prologue` runs on loaded activations, `epilogue` on the float32 accumulator. Absent parts are `None` pointers and
identity functions, which cost nothing. The torch half, `reference_prologue` and `reference_epilogue`, is float64.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from optgraph.ir.values import Act
from optgraph.kernels.jit.activations import apply


@triton.jit
def prologue(x, scale, shift, channels, mask, a, b, ACT: tl.constexpr):
    """pre_act(x * scale[channels] + shift[channels]) in float32; `channels` is [BLOCK_K], `x` [BLOCK_M, BLOCK_K]."""
    x = x.to(tl.float32)
    if scale is not None:
        x *= tl.load(scale + channels, mask, other=0.0)[None, :]
    if shift is not None:
        x += tl.load(shift + channels, mask, other=0.0)[None, :]
    return ACT(x, a, b)


@triton.jit
def multiplicand(x, PRECISION: tl.constexpr):
    """`x` as a tl.dot should have it. For tf32 the hardware drops a float32's last 13 bits, which shrinks every value
    a little; this rounds to the nearest. Weights are rounded when they are packed."""
    if PRECISION == "tf32" and x.dtype == tl.float32:
        nearest = (x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000
        x = tl.where(x == x, nearest.to(tl.float32, bitcast=True), x)
    return x


@triton.jit
def store_rows(
    acc,
    out,
    residual,
    rows,
    columns,
    row_mask,
    column_mask,
    out_row,
    residual_row,
    post_a,
    post_b,
    POST: tl.constexpr,
):
    """Stores post(acc + residual) at pixel rows [BLOCK_M] (int64) and channels [BLOCK_N] of dense-pixel tensors."""
    mask = row_mask[:, None] & column_mask[None, :]
    if residual is not None:
        acc += tl.load(residual + rows[:, None] * residual_row + columns[None, :], mask, other=0.0).to(tl.float32)
    acc = POST(acc, post_a, post_b)
    tl.store(out + rows[:, None] * out_row + columns[None, :], acc.to(out.dtype.element_ty), mask)


def reference_prologue(
    x: torch.Tensor, scale: torch.Tensor | None, shift: torch.Tensor | None, act: Act
) -> torch.Tensor:
    x = x.double()
    if scale is not None:
        x = x * scale.double()
    if shift is not None:
        x = x + shift.double()
    return apply(x, act)


def reference_epilogue(
    y: torch.Tensor, bias: torch.Tensor | None, act: Act, residual: torch.Tensor | None, post: Act
) -> torch.Tensor:
    if bias is not None:
        y = y + bias.double()
    y = apply(y, act)
    if residual is not None:
        y = y + residual.double()
    return apply(y, post)
