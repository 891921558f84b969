# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""kh x kw convolution feeding a 1x1 convolution, back to back; see `kernels/bottleneck.py`."""

from __future__ import annotations

import triton
import triton.language as tl

from optgraph.kernels.jit.dependence import await_launches
from optgraph.kernels.jit.epilogue import activated, joined_by, multiplicand, parameter, prologue
from optgraph.kernels.jit.grid import settled


# fmt: off
@triton.jit
def _finish(acc, bias, channels, mask, mid, CLEAR_K: tl.constexpr):
    """What comes between the convolutions, on the float32 sums of some of h's channels."""
    if bias is not None:
        acc += tl.load(bias + channels, mask, other=0.0)[None, :]
    h = mid.fn(acc, parameter(mid.a, channels, mask), mid.b)
    return tl.where(mask[None, :], h, 0.0) if CLEAR_K else h


@triton.jit
def bottleneck(
    x, conv_weight, conv_bias, rest, weight, out, image, window, pre, mid, end,
    size, joined,
    PRECISION: tl.constexpr, CLEAR_K: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    HIDDEN_0: tl.constexpr, HIDDEN_1: tl.constexpr, REST_0: tl.constexpr, REST_1: tl.constexpr,
):
    # Shows the compiler the divisibility of sizes that 16 does not divide (see addressing).
    channels, columns = size.channels // ALIGN * ALIGN, size.columns // ALIGN * ALIGN
    hidden, rest_channels = joined.hidden // ALIGN * ALIGN, joined.rest // ALIGN * ALIGN
    rest_row = joined.rest_row // ALIGN * ALIGN
    out_row, residual_row = size.row // ALIGN * ALIGN, end.residual_row // ALIGN * ALIGN
    stride_n, stride_h = image.stride_n // ALIGN * ALIGN, image.stride_h // ALIGN * ALIGN
    stride_w = image.stride_w // ALIGN * ALIGN
    kernel_w, dilation_h, dilation_w = window.kernel_w, window.dilation_h, window.dilation_w
    tap_h, tap_w = dilation_h * stride_h, dilation_w * stride_w  # from one tap to the next
    dtype: tl.constexpr = weight.dtype.element_ty

    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)  # [BLOCK_M]
    k = tl.arange(0, BLOCK_K)
    m_mask = m < size.pixels
    pixel = m.to(tl.int64)
    ow = m % size.width
    oh = m // size.width % size.height
    picture = (m // size.width // size.height).to(tl.int64)
    top = oh * window.stride_h - window.top
    left = ow * window.stride_w - window.left
    # Taps r_first <= r < r_end and s_first <= s < s_end of a row are inside x.
    r_first = tl.cdiv(tl.maximum(-top, 0), dilation_h)
    r_end = tl.where(m_mask, tl.cdiv(tl.maximum(image.height - top, 0), dilation_h), 0)
    s_first = tl.cdiv(tl.maximum(-left, 0), dilation_w)
    s_end = tl.cdiv(tl.maximum(image.width - left, 0), dilation_w)
    origin = picture * stride_n + top.to(tl.int64) * stride_h + left.to(tl.int64) * stride_w
    x_block = x + origin[:, None] + k[None, :]  # [BLOCK_M, BLOCK_K], may point before x

    h0 = tl.arange(0, HIDDEN_0)
    h0_mask = h0 < hidden
    acc0 = tl.zeros((BLOCK_M, HIDDEN_0), dtype=tl.float32)
    if HIDDEN_1:
        h1 = HIDDEN_0 + tl.arange(0, HIDDEN_1)
        h1_mask = h1 < hidden
        acc1 = tl.zeros((BLOCK_M, HIDDEN_1), dtype=tl.float32)
    await_launches()
    blocks = tl.cdiv(channels, BLOCK_K)
    for step in range(window.kernel_h * kernel_w * blocks):
        tap = step // blocks
        base = (step - tap * blocks) * BLOCK_K
        r = tap // kernel_w
        s = tap % kernel_w
        k_mask = k < channels - base
        inside = (r_first <= r) & (r < r_end) & (s_first <= s) & (s < s_end)  # [BLOCK_M]
        a_mask = inside[:, None] & k_mask[None, :]
        a = tl.load(x_block + (r * tap_h + s * tap_w + base), a_mask, other=0.0)
        if pre.act is not None:
            a = prologue(a, pre, base + k, k_mask)
            a = tl.where(a_mask, a, 0.0)
        a = multiplicand(a.to(dtype), PRECISION)
        w = conv_weight + (tap * channels + base + k)[:, None] * hidden  # [BLOCK_K, 1]
        w0 = tl.load(w + h0[None, :], k_mask[:, None] & h0_mask[None, :], other=0.0)
        acc0 = tl.dot(a, w0, acc0, input_precision=PRECISION)
        if HIDDEN_1:
            w1 = tl.load(w + h1[None, :], k_mask[:, None] & h1_mask[None, :], other=0.0)
            acc1 = tl.dot(a, w1, acc1, input_precision=PRECISION)

    # z = [h, rest], [BLOCK_M, 16 to 256] each, in up to two pieces. Masked channels meet rows of weight that read as 0.
    z0 = multiplicand(_finish(acc0, conv_bias, h0, h0_mask, mid, CLEAR_K).to(dtype), PRECISION)
    if HIDDEN_1:
        z1 = multiplicand(_finish(acc1, conv_bias, h1, h1_mask, mid, CLEAR_K).to(dtype), PRECISION)
    if REST_0:
        r0 = tl.arange(0, REST_0)
        r0_mask = r0 < rest_channels
        rest_block = rest + pixel[:, None] * rest_row
        z2 = tl.load(rest_block + r0[None, :], m_mask[:, None] & r0_mask[None, :], other=0.0)
        z2 = multiplicand(z2.to(dtype), PRECISION)
    if REST_1:
        r1 = REST_0 + tl.arange(0, REST_1)
        r1_mask = r1 < rest_channels
        z3 = tl.load(rest_block + r1[None, :], m_mask[:, None] & r1_mask[None, :], other=0.0)
        z3 = multiplicand(z3.to(dtype), PRECISION)

    for first in range(0, columns, BLOCK_N):
        n = first + tl.arange(0, BLOCK_N)  # [BLOCK_N]
        n_mask = n < columns
        mask = m_mask[:, None] & n_mask[None, :]
        if end.residual is not None:
            # Asked for now, it arrives while the products run.
            added = tl.load(end.residual + pixel[:, None] * residual_row + n[None, :], mask, other=0.0)
        w = weight + joined.hidden_start * columns + n[None, :]  # [1, BLOCK_N]
        b0 = tl.load(w + h0[:, None] * columns, h0_mask[:, None] & n_mask[None, :], other=0.0)
        acc = tl.dot(z0, b0, input_precision=PRECISION)
        if HIDDEN_1:
            b1 = tl.load(w + h1[:, None] * columns, h1_mask[:, None] & n_mask[None, :], other=0.0)
            acc = tl.dot(z1, b1, acc, input_precision=PRECISION)
        w = weight + joined.rest_start * columns + n[None, :]
        if REST_0:
            b2 = tl.load(w + r0[:, None] * columns, r0_mask[:, None] & n_mask[None, :], other=0.0)
            acc = tl.dot(z2, b2, acc, input_precision=PRECISION)
        if REST_1:
            b3 = tl.load(w + r1[:, None] * columns, r1_mask[:, None] & n_mask[None, :], other=0.0)
            acc = tl.dot(z3, b3, acc, input_precision=PRECISION)
        acc = activated(acc, end, n, n_mask)
        if end.residual is not None:
            acc = joined_by(acc, added, end)
        acc = end.post(acc, parameter(end.post_a, n, n_mask), end.post_b)
        tl.store(out + pixel[:, None] * out_row + n[None, :], settled(acc, end, out.dtype.element_ty), mask)
# fmt: on
