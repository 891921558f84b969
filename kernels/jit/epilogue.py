# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""What kernels do around their own work: y = grid(post(act(op(pre(x)) + bias) + residual)); see `frame/ends.py`.

`prologue` runs on loaded activations, `activated` and `store_rows` on the accumulator: float32, or the int32 sums of
integers. Absent parts are None and identity functions, which cost nothing. The `a` of an activation is a number or, of
a PRelu, where its slopes are.
"""

from __future__ import annotations

import triton
import triton.language as tl

from optgraph.kernels.jit.grid import nearest, settled, settled_last


@triton.jit
def prologue(x, pre, channels, mask, TYPE: tl.constexpr = tl.float32):
    """pre(x) in float32, or integers of its grid if TYPE is int8; `channels` is [BLOCK_K], `x` [BLOCK_M, BLOCK_K]."""
    x = x.to(tl.float32)
    if pre.act is not None:
        if pre.step is not None:
            x = (x - pre.zero) * pre.step
        if pre.scale is not None:
            x *= tl.load(pre.scale + channels, mask, other=0.0)[None, :]
        if pre.shift is not None:
            x += tl.load(pre.shift + channels, mask, other=0.0)[None, :]
        x = pre.act(x, pre.a, pre.b)
    if pre.onto_scale is not None:
        x = settled_last(x, pre.onto_scale, pre.onto_inverse, pre.onto_zero, TYPE)
    return x


@triton.jit
def multiplicand(x, PRECISION: tl.constexpr):
    """`x` as a tl.dot should have it. For tf32 the hardware drops a float32's last 13 bits, which shrinks every value
    a little; this rounds to the nearest. Weights are rounded when they are packed."""
    if PRECISION == "tf32" and x.dtype == tl.float32:
        nearest = (x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000
        x = tl.where(x == x, nearest.to(tl.float32, bitcast=True), x)
    return x


@triton.jit
def parameter(a, channels, mask):
    """The `a` of an activation for a block of `channels`: itself, or [1, BLOCK_N] if it points to one a channel."""
    if tl.core.to_tensor(a).dtype.is_ptr():  # not exported by Triton 3.6
        a = tl.load(a + channels, mask, other=0.0)[None, :]
    return a


@triton.jit
def biased(acc, end, columns, mask):
    """acc + bias[columns], in float32; `columns` is [BLOCK_N]."""
    if end.scale is not None:
        acc = acc.to(tl.float32) * tl.load(end.scale + columns, mask, other=0.0)[None, :]
    if end.bias is not None:
        acc += tl.load(end.bias + columns, mask, other=0.0)[None, :]
    return acc


@triton.jit
def activated(acc, end, columns, mask):
    """act(acc + bias[columns]), in float32; `columns` is [BLOCK_N]."""
    acc = biased(acc, end, columns, mask)
    return end.act(acc, parameter(end.a, columns, mask), end.b)


@triton.jit
def vector(pointer, columns, mask):
    """What a vector has for `columns` [BLOCK_M, BLOCK_N], for several blocks: each thread loads its own, which does not
    go through shared memory. 0 if there is no vector."""
    return 0 if pointer is None else tl.load(pointer + columns, mask, other=0.0)


@triton.jit
def activated_by(scale, bias, acc, end, columns, mask):
    """`activated`, by what `vector` gave of those of `end`."""
    if end.scale is not None:
        acc = acc.to(tl.float32) * scale
    if end.bias is not None:
        acc += bias
    return end.act(acc, parameter(end.a, columns, mask), end.b)


@triton.jit
def started(acc, end, columns, mask):
    """Sums of integers, with what the grid's zero adds to each column of them."""
    if end.start is not None:
        acc += tl.load(end.start + columns, mask, other=0)[None, :]
    return acc


@triton.jit
def joined_by(acc, added, end):
    """acc, rounded to its own grid if it has one, and what was loaded of the residual."""
    if end.before_scale is not None:
        acc = nearest(acc, end.before_scale, end.before_inverse, end.before_zero)
    if added.dtype == tl.int8:  # bytes change their layout while they are bytes: Triton looks for a wider integer
        added = added.to(tl.int32)
    added = added.to(tl.float32)
    if end.residual_step is not None:
        added = (added - end.residual_zero) * end.residual_step
    return acc + added


@triton.jit
def store_rows(acc, end, out, out_row, rows, columns, row_mask, column_mask, ALIGN: tl.constexpr):
    """Stores grid(post(acc + residual)) at pixel rows [BLOCK_M] (int64) and channels [BLOCK_N] of dense-pixel tensors
    whose rows ALIGN divides."""
    mask = row_mask[:, None] & column_mask[None, :]
    if end.residual is not None:
        residual_row = end.residual_row // ALIGN * ALIGN
        added = tl.load(end.residual + rows[:, None] * residual_row + columns[None, :], mask, other=0.0)
        acc = joined_by(acc, added, end)
    acc = end.post(acc, parameter(end.post_a, columns, column_mask), end.post_b)
    out_row = out_row // ALIGN * ALIGN
    tl.store(out + rows[:, None] * out_row + columns[None, :], settled(acc, end, out.dtype.element_ty), mask)
