# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Depthwise convolution feeding a 1x1 convolution; see `kernels/separable.py`."""

from __future__ import annotations

import triton
import triton.language as tl

from optgraph.kernels.jit.addressing import strip_position
from optgraph.kernels.jit.dependence import await_launches
from optgraph.kernels.jit.epilogue import activated, multiplicand, parameter, store_rows


# fmt: off
@triton.jit
def separable(
    x, depthwise, depthwise_bias, weight, out, image, window, pre, mid, end,
    size,  # pixels: N*strips*STRIP*Wo
    STRIDE_C: tl.constexpr, DILATED: tl.constexpr, HALF: tl.constexpr, CLEAR: tl.constexpr,
    CLEAR_K: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, STRIP: tl.constexpr, PRECISION: tl.constexpr,
    ALIGN_K: tl.constexpr, ALIGN_N: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, ACCUMULATORS: tl.constexpr,
):
    # Shows the compiler the divisibility of sizes that 16 does not divide (see addressing).
    channels, columns = size.channels // ALIGN_K * ALIGN_K, size.columns // ALIGN_N * ALIGN_N
    stride_n, stride_h = image.stride_n // ALIGN_K * ALIGN_K, image.stride_h // ALIGN_K * ALIGN_K
    stride_w = image.stride_w // ALIGN_K * ALIGN_K
    dilation_h, dilation_w = 1, 1
    if DILATED:
        dilation_h, dilation_w = window.dilation_h, window.dilation_w
    tap_h, tap_w = dilation_h * stride_h, dilation_w * stride_w  # from one tap to the next
    # Columns vary fastest: programs that repeat a depthwise run together and read x from L2.
    tiles_n = tl.cdiv(columns, BLOCK_N * ACCUMULATORS)
    pid = tl.program_id(0)
    position = pid // tiles_n * BLOCK_M + tl.arange(0, BLOCK_M)  # [BLOCK_M]
    n = pid % tiles_n * (BLOCK_N * ACCUMULATORS) + tl.arange(0, BLOCK_N)  # [BLOCK_N], of the first accumulator
    k = tl.arange(0, BLOCK_K)

    picture, oh, ow = strip_position(position, size.height, size.width, STRIP)
    m_mask = (position < size.pixels) & (oh < size.height)
    top = oh * window.stride_h - window.top
    left = ow * window.stride_w - window.left
    # Taps r_first <= r < r_end and s_first <= s < s_end of a pixel are inside x.
    r_first = tl.cdiv(tl.maximum(-top, 0), dilation_h)
    r_end = tl.where(m_mask, tl.cdiv(tl.maximum(image.height - top, 0), dilation_h), 0)
    s_first = tl.cdiv(tl.maximum(-left, 0), dilation_w)
    s_end = tl.cdiv(tl.maximum(image.width - left, 0), dilation_w)
    origin = picture.to(tl.int64) * stride_n + top.to(tl.int64) * stride_h + left.to(tl.int64) * stride_w
    x_block = x + origin[:, None] + (k * STRIDE_C)[None, :]  # [BLOCK_M, BLOCK_K], may point before x

    bits: tl.constexpr = tl.int16 if weight.dtype.element_ty.primitive_bitwidth == 16 else tl.int32
    summed: tl.constexpr = tl.float16 if HALF else tl.float32
    await_launches()
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    acc1, acc2 = acc, acc
    for base in tl.range(0, channels, BLOCK_K, num_stages=1):
        c = base + k
        k_mask = c < channels
        if pre.act is not None:
            if pre.scale is not None:
                scale = tl.load(pre.scale + c, k_mask, other=0.0)[None, :]
            if pre.shift is not None:
                shift = tl.load(pre.shift + c, k_mask, other=0.0)[None, :]
        # Asked for before the taps, to be there after them. Of three blocks, the others would take too many registers.
        w_block = weight + (c[:, None] * columns + n[None, :])  # [BLOCK_K, BLOCK_N]
        w_mask = k_mask[:, None] & (n < columns)[None, :]
        if ACCUMULATORS > 1:
            # What is no number yet waits in registers: the compiler would wait for it, to put it into shared memory.
            w_bits = tl.load(w_block.to(tl.pointer_type(bits), bitcast=True), w_mask, other=0)
        else:
            w = tl.load(w_block, w_mask, other=0.0)  # the registers are worth a second block on the SM
        d = tl.zeros((BLOCK_M, BLOCK_K), dtype=tl.float32)
        for r in tl.range(0, KH, num_stages=1):
            row_mask = (r_first <= r) & (r < r_end)
            row = tl.zeros((BLOCK_M, BLOCK_K), dtype=summed)
            for s in tl.static_range(KW):
                inside = (row_mask & (s_first <= s) & (s < s_end))[:, None] & k_mask[None, :]
                a = tl.load(x_block + (base * STRIDE_C + r * tap_h + s * tap_w), inside, other=0.0).to(summed)
                if pre.act is not None:
                    if pre.scale is not None:
                        a *= scale
                    if pre.shift is not None:
                        a += shift
                    a = pre.act(a, pre.a, pre.b)
                    if CLEAR:
                        a = tl.where(inside, a, 0.0)
                tap = tl.load(depthwise + (r * KW + s) * channels + c, k_mask, other=0.0).to(summed)
                row += a * tap[None, :]
            d += row.to(tl.float32)
        if depthwise_bias is not None:
            d += tl.load(depthwise_bias + c, k_mask, other=0.0)[None, :]
        d = mid.fn(d, parameter(mid.a, c, k_mask), mid.b)
        if CLEAR_K:
            d = tl.where(k_mask[None, :], d, 0.0)
        a = multiplicand(d.to(weight.dtype.element_ty), PRECISION)
        if ACCUMULATORS > 1:
            w = w_bits.to(weight.dtype.element_ty, bitcast=True)
        acc = tl.dot(a, w, acc, input_precision=PRECISION)
        if ACCUMULATORS > 1:
            w = tl.load(w_block + BLOCK_N, k_mask[:, None] & (n + BLOCK_N < columns)[None, :], other=0.0)
            acc1 = tl.dot(a, w, acc1, input_precision=PRECISION)
        if ACCUMULATORS > 2:
            w = tl.load(w_block + 2 * BLOCK_N, k_mask[:, None] & (n + 2 * BLOCK_N < columns)[None, :], other=0.0)
            acc2 = tl.dot(a, w, acc2, input_precision=PRECISION)

    m = (picture.to(tl.int64) * size.height + oh) * size.width + ow
    for i in tl.static_range(ACCUMULATORS):
        if i > 0:
            acc = acc1 if i == 1 else acc2
            n += BLOCK_N
        n_mask = n < columns
        acc = activated(acc, end, n, n_mask)
        store_rows(acc, end, out, size.row, m, n, m_mask, n_mask, ALIGN_N)
# fmt: on
