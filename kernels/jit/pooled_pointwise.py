# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Max pool feeding a 1x1 convolution; see `kernels/pooled_pointwise.py`."""

from __future__ import annotations

import triton
import triton.language as tl

from optgraph.kernels.jit.addressing import aligned, strip_position
from optgraph.kernels.jit.dependence import await_launches
from optgraph.kernels.jit.epilogue import activated, multiplicand, store_rows


# fmt: off
@triton.jit
def pooled_pointwise(
    x, weight, out, image, window, pre, end,
    size,  # pixels: N*strips*STRIP*Wo
    STRIDE_C: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, UNROLL: tl.constexpr, STRIP: tl.constexpr,
    PRECISION: tl.constexpr, ALIGN_K: tl.constexpr, ALIGN_N: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):
    channels, columns = aligned(size.channels, ALIGN_K), aligned(size.columns, ALIGN_N)
    stride_h, stride_w = aligned(image.stride_h, ALIGN_K), aligned(image.stride_w, ALIGN_K)
    # Columns vary fastest: programs that repeat a window run together and read x from L2.
    tiles_n = tl.cdiv(columns, BLOCK_N)
    pid = tl.program_id(0)
    position = pid // tiles_n * BLOCK_M + tl.arange(0, BLOCK_M)  # [BLOCK_M]
    n = pid % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)  # [BLOCK_N]
    k = tl.arange(0, BLOCK_K)

    picture, oh, ow = strip_position(position, size.height, size.width, STRIP)
    m_mask = (position < size.pixels) & (oh < size.height)
    n_mask = n < columns
    top = oh * window.stride_h - window.top
    left = ow * window.stride_w - window.left
    origin = picture.to(tl.int64) * aligned(image.stride_n, ALIGN_K)
    origin += top.to(tl.int64) * stride_h + left.to(tl.int64) * stride_w
    x_block = x + origin[:, None] + (k * STRIDE_C)[None, :]  # [BLOCK_M, BLOCK_K], may point before x

    await_launches()
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for base in tl.range(0, channels, BLOCK_K, num_stages=1):
        k_mask = base + k < channels
        # Zero where the block is wider than the data: the weight is zero there, and -inf * 0 would be NaN.
        p = tl.where(m_mask[:, None] & k_mask[None, :], float("-inf"), 0.0)
        for step in tl.range(0, KH * KW // UNROLL, num_stages=1):
            down = step * UNROLL // KW * window.dilation_h
            row_mask = m_mask & (top + down >= 0) & (top + down < image.height)
            for u in tl.static_range(UNROLL):
                right = (step * UNROLL % KW + u) * window.dilation_w
                column_mask = (left + right >= 0) & (left + right < image.width)
                inside = (row_mask & column_mask)[:, None] & k_mask[None, :]
                tap = base * STRIDE_C + down * stride_h + right * stride_w
                v = tl.load(x_block + tap, inside, other=float("-inf")).to(tl.float32)
                if pre.act is not None:
                    v = tl.where(inside, pre.act(v, pre.a, pre.b), float("-inf"))
                p = tl.maximum(p, v, propagate_nan=tl.PropagateNan.ALL)
        # Offsets anew in every step: pointers kept from one to the next would spill.
        w = tl.load(weight + ((base + k)[:, None] * columns + n[None, :]), k_mask[:, None] & n_mask[None, :], other=0.0)
        acc = tl.dot(multiplicand(p.to(w.dtype), PRECISION), w, acc, input_precision=PRECISION)

    acc = activated(acc, end, n, n_mask)
    m = (picture.to(tl.int64) * size.height + oh) * size.width + ow
    store_rows(acc, end, out, size.row, m, n, m_mask, n_mask, ALIGN_N)
# fmt: on
