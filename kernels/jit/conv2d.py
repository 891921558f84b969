# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""kh x kw convolution as an implicit GEMM; see `kernels/conv2d.py`."""

from __future__ import annotations

import triton
import triton.language as tl

from optgraph.kernels.jit.dependence import await_launches, fetch
from optgraph.kernels.jit.epilogue import activated, multiplicand, prologue, started, store_rows
from optgraph.kernels.jit.split_k import joined, span


@triton.jit
def _bits(one, first, end, size: tl.constexpr):
    """Bits first <= i < end, of the lowest `size`."""
    end = tl.minimum(end, size)
    return (one << end) - (one << tl.minimum(first, end))


# fmt: off
@triton.jit
def conv2d(
    x, weight, ahead, out, workspace, image, window, pre, end,  # ahead: the weight as it lies, if it comes by TMA
    size, splits,
    kinds,  # of pixels, by which taps are inside x
    boxes,  # TMA: the output as boxes see it, and from one kernel row to the next along its second axis
    STRIDE_C: tl.constexpr, DILATED: tl.constexpr, SPLIT: tl.constexpr, INTEGERS: tl.constexpr,
    KINDS: tl.constexpr,
    FLATTEN: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, CHANNELS: tl.constexpr,  # sizes known if it is flattened
    TMA: tl.constexpr, BOX0: tl.constexpr, BOX1: tl.constexpr, BOX2: tl.constexpr, PRECISION: tl.constexpr,
    ALIGN_K: tl.constexpr, ALIGN_N: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):
    # Shows the compiler the divisibility of sizes (see addressing).
    channels, columns = size.channels // ALIGN_K * ALIGN_K, size.columns // ALIGN_N * ALIGN_N
    stride_n, stride_h = image.stride_n // ALIGN_K * ALIGN_K, image.stride_h // ALIGN_K * ALIGN_K
    stride_w = image.stride_w // ALIGN_K * ALIGN_K
    kh, kw, dilation_h, dilation_w = window.kernel_h, window.kernel_w, 1, 1
    if DILATED:
        dilation_h, dilation_w = window.dilation_h, window.dilation_w
    if FLATTEN:
        kh, kw, channels = KH, KW, CHANNELS
    tap_h, tap_w = dilation_h * stride_h, dilation_w * stride_w  # from one tap to the next
    # GROUP_M row tiles walk the columns together: both operands stay in L2.
    if TMA:
        tiles1, tiles2 = tl.cdiv(boxes.size1, BOX1), tl.cdiv(boxes.size2, BOX2)
        tiles_m = tl.cdiv(boxes.size0, BOX0) * tiles1 * tiles2
    else:
        tiles_m = tl.cdiv(size.pixels, BLOCK_M)
    tiles_n = tl.cdiv(columns, BLOCK_N)
    pid = tl.program_id(0)
    first_m = pid // (GROUP_M * tiles_n) * GROUP_M
    group_m = tl.minimum(tiles_m - first_m, GROUP_M)
    within = pid % (GROUP_M * tiles_n)
    pid_m = first_m + within % group_m
    first_n = within // group_m * BLOCK_N
    n = first_n + tl.arange(0, BLOCK_N)  # [BLOCK_N], within the group
    k = tl.arange(0, BLOCK_K)
    n_mask = n < columns
    group = tl.program_id(1)
    first_channel = group * channels

    if TMA:
        fetch(ahead, kh * kw * channels * columns)
        fetch(end.bias, columns)
        first2 = pid_m % tiles2 * BOX2
        first1 = pid_m // tiles2 % tiles1 * BOX1
        first0 = pid_m // tiles2 // tiles1 * BOX0
        i = tl.arange(0, BLOCK_M)
        i0, i1, i2 = first0 + i // (BOX1 * BOX2), first1 + i // BOX2 % BOX1, first2 + i % BOX2
        m = (i0 * boxes.size1 + i1) * boxes.size2 + i2  # [BLOCK_M]
        m_mask = (i0 < boxes.size0) & (i1 < boxes.size1) & (i2 < boxes.size2)
    else:
        m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)  # [BLOCK_M]
        m_mask = m < size.pixels
        ow = m % size.width
        oh = m // size.width % size.height
        picture = (m // size.width // size.height).to(tl.int64)
        top = oh * window.stride_h - window.top
        left = ow * window.stride_w - window.left
        origin = picture * stride_n + top.to(tl.int64) * stride_h + left.to(tl.int64) * stride_w
        x_rows = x + first_channel.to(tl.int64) * STRIDE_C + origin[:, None]  # [BLOCK_M, 1], may point before x
        depth = kh * kw * channels
        weight += group.to(tl.int64) * (depth * columns)
        # Taps r_first <= r < r_end and s_first <= s < s_end of a row are inside x.
        r_first = tl.cdiv(tl.maximum(-top, 0), dilation_h)
        r_end = tl.where(m_mask, tl.cdiv(tl.maximum(image.height - top, 0), dilation_h), 0)
        s_first = tl.cdiv(tl.maximum(-left, 0), dilation_w)
        s_end = tl.cdiv(tl.maximum(image.width - left, 0), dilation_w)
        if FLATTEN:
            # The rows, and above them the columns, that are inside, as bits: one comparison an element, and not four.
            one = tl.full((1,), 1, tl.int32 if KH + KW < 32 else tl.int64)
            bits = _bits(one, r_first, r_end, KH) + (_bits(one, s_first, s_end, KW) << KH)  # [BLOCK_M]
        x_block = x_rows + (k * STRIDE_C)[None, :]  # [BLOCK_M, BLOCK_K]
        if INTEGERS:  # by columns: the tensor cores want bytes of a column side by side
            weight_block = weight + n[:, None].to(tl.int64) * depth + k[None, :]  # [BLOCK_N, BLOCK_K]
        else:
            weight_block = weight + (k[:, None] * columns + n[None, :])  # [BLOCK_K, BLOCK_N]

    # One loop over (tap, channel block): the software pipeline never drains between taps.
    blocks = tl.cdiv(channels, BLOCK_K)
    steps = tl.cdiv(kh * kw * channels, BLOCK_K) if FLATTEN else kh * kw * blocks
    first, last = 0, steps
    # Where the loop is: counted, for to divide in every step would take as many instructions as all the rest of it.
    r, s, base = 0, 0, 0
    if SPLIT:
        first, last = span(steps, tl.program_id(2), splits)
        if not FLATTEN:
            r, s, base = first // blocks // kw, first // blocks % kw, first % blocks * BLOCK_K
    own = group * columns + n  # of all groups' columns
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.int32 if INTEGERS else tl.float32)
    if INTEGERS and not KINDS:  # of the programs that share a sum, the first begins with it
        acc = started(acc, end, own, n_mask & (tl.program_id(2) == 0) if SPLIT else n_mask)
    await_launches()
    for step in range(first, last):
        if FLATTEN:
            index = step * BLOCK_K + k
            c = index % channels
            tap = index // channels
            row, column = tap // kw, tap % kw  # [BLOCK_K]
            k_mask = index < kh * kw * channels
            # Beyond the last tap, a bit that no pixel has.
            wanted = tl.where(k_mask, (one << row) + (one << (KH + column)), one << (KH + KW))[None, :]
            a_mask = (bits[:, None] & wanted) == wanted  # [BLOCK_M, BLOCK_K]
            a = tl.load(x_rows + (row * tap_h + column * tap_w + c * STRIDE_C)[None, :], a_mask, other=0.0)
            if INTEGERS:
                b = tl.load(weight_block + step * BLOCK_K, n_mask[:, None] & k_mask[None, :], other=0.0)
            else:
                b = tl.load(weight_block + step * BLOCK_K * columns, k_mask[:, None] & n_mask[None, :], other=0.0)
        else:
            c = base + k
            first_row = (r * kw + s) * channels + base  # of weight
            if TMA:
                # Beyond the last channel of a tap x gives zeros, which silence the next tap's weights.
                box = x.load([first0, first1 + (r - window.top) * boxes.step, first2 + s - window.left, base])
                a = box.reshape(BLOCK_M, BLOCK_K)
                b = weight.load([first_n, first_row]) if INTEGERS else weight.load([first_row, first_n])
            else:
                k_mask = k < channels - base
                inside = (r_first <= r) & (r < r_end) & (s_first <= s) & (s < s_end)  # [BLOCK_M]
                a_mask = inside[:, None] & k_mask[None, :]
                a = tl.load(x_block + (r * tap_h + s * tap_w + base * STRIDE_C), a_mask, other=0.0)
                if INTEGERS:
                    b = tl.load(weight_block + first_row, n_mask[:, None] & k_mask[None, :], other=0.0)
                else:
                    b = tl.load(weight_block + first_row * columns, k_mask[:, None] & n_mask[None, :], other=0.0)
        if pre.act is not None:
            a = prologue(a, pre, first_channel + c, k_mask, tl.int8 if INTEGERS else tl.float32)
            a = tl.where(a_mask, a, 0)
        if INTEGERS:
            acc = tl.dot(a, b.T, acc, out_dtype=tl.int32)
        else:
            acc = tl.dot(multiplicand(a.to(b.dtype), PRECISION), b, acc, input_precision=PRECISION)
        if not FLATTEN:
            base += BLOCK_K
            s += (base >= channels).to(tl.int32)
            base = tl.where(base < channels, base, 0)
            r += (s == kw).to(tl.int32)
            s = tl.where(s < kw, s, 0)

    whole = True
    if SPLIT:
        tile = group * tl.num_programs(0) + pid
        acc, whole = joined(acc, workspace, tile, tl.program_id(2), splits, BLOCK_M, BLOCK_N)
    if whole:
        if KINDS:
            oh, ow = m // size.width % size.height, m % size.width
            down = tl.minimum(oh, kinds.top) + tl.maximum(oh - kinds.bottom, 0)
            across = tl.minimum(ow, kinds.left) + tl.maximum(ow - kinds.right, 0)
            start_row = (down * kinds.across + across) * (tl.num_programs(1) * columns)
            added = start_row[:, None] + own[None, :]
            acc += tl.load(end.start + added, m_mask[:, None] & n_mask[None, :], other=0)
        y = activated(acc, end, own, n_mask)
        store_rows(y, end, out, size.row, m.to(tl.int64), own, m_mask, n_mask, ALIGN_N)
# fmt: on
