# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Max pool feeding a 1x1 convolution: the tensor between them is never in memory.

    p[m, c]   = max_{r,s} pre_act(x[n, oh*sh - top + r*dh, ow*sw - left + s*dw, c])               m = (n, oh, ow)
    out[m, :] = post(act(p[m, :] @ weight + bias) + residual[m, :])

x is [N, H, W, C] with any strides, weight [C, Cout] (`pointwise.pack`), contiguous; out and residual dense pixels.
Positions outside x are -inf, the prologue notwithstanding; a NaN in a window is a NaN out. p is rounded to the
weight's type, as if it had been stored.

Bound: bytes. Programs repeat the window for every block of columns, so it is for products that one block can hold.
As in `separable`, the window is reduced in registers, and the loops have one stage: software pipelining would stage
every shifted load in shared memory. The taps of one window row, unrolled, are the loads in flight.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from optgraph.ir.values import IDENTITY, Act
from optgraph.kernels import pool
from optgraph.kernels.frame import choice
from optgraph.kernels.frame.launch import Launch, target_of
from optgraph.kernels.frame.operands import (
    check_contiguous,
    check_shape,
    check_vector,
    output_size,
    row_stride,
    strides4,
)
from optgraph.kernels.jit.activations import activation
from optgraph.kernels.jit.addressing import aligned, alignment, strip_position, strip_rows, unrolled
from optgraph.kernels.jit.epilogue import multiplicand, reference_epilogue, store_rows


# fmt: off
@triton.jit
def _pooled_pointwise(
    x, weight, bias, residual, out,
    positions, in_height, in_width, out_height, out_width, channels, columns,  # N*strips*STRIP*Wo, then H, W, ...
    stride_n, stride_h, stride_w, STRIDE_C: tl.constexpr, out_row, residual_row,
    pool_stride_h, pool_stride_w, pad_top, pad_left, dilation_h, dilation_w,
    pre_a, pre_b, act_a, act_b, post_a, post_b,
    KH: tl.constexpr, KW: tl.constexpr, UNROLL: tl.constexpr, STRIP: tl.constexpr, HAS_PRE: tl.constexpr,
    PRE: tl.constexpr, ACT: tl.constexpr, POST: tl.constexpr, PRECISION: tl.constexpr,
    ALIGN_K: tl.constexpr, ALIGN_N: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):
    channels, columns = aligned(channels, ALIGN_K), aligned(columns, ALIGN_N)
    stride_h, stride_w = aligned(stride_h, ALIGN_K), aligned(stride_w, ALIGN_K)
    # Columns vary fastest: programs that repeat a window run together and read x from L2.
    tiles_n = tl.cdiv(columns, BLOCK_N)
    pid = tl.program_id(0)
    position = pid // tiles_n * BLOCK_M + tl.arange(0, BLOCK_M)  # [BLOCK_M]
    n = pid % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)  # [BLOCK_N]
    k = tl.arange(0, BLOCK_K)

    image, oh, ow = strip_position(position, out_height, out_width, STRIP)
    m_mask = (position < positions) & (oh < out_height)
    n_mask = n < columns
    top = oh * pool_stride_h - pad_top
    left = ow * pool_stride_w - pad_left
    origin = image.to(tl.int64) * aligned(stride_n, ALIGN_K)
    origin += top.to(tl.int64) * stride_h + left.to(tl.int64) * stride_w
    x_block = x + origin[:, None] + (k * STRIDE_C)[None, :]  # [BLOCK_M, BLOCK_K], may point before x

    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for base in tl.range(0, channels, BLOCK_K, num_stages=1):
        k_mask = base + k < channels
        # Zero where the block is wider than the data: the weight is zero there, and -inf * 0 would be NaN.
        p = tl.where(m_mask[:, None] & k_mask[None, :], float("-inf"), 0.0)
        for step in tl.range(0, KH * KW // UNROLL, num_stages=1):
            down = step * UNROLL // KW * dilation_h
            row_mask = m_mask & (top + down >= 0) & (top + down < in_height)
            for u in tl.static_range(UNROLL):
                right = (step * UNROLL % KW + u) * dilation_w
                column_mask = (left + right >= 0) & (left + right < in_width)
                inside = (row_mask & column_mask)[:, None] & k_mask[None, :]
                tap = base * STRIDE_C + down * stride_h + right * stride_w
                v = tl.load(x_block + tap, inside, other=float("-inf")).to(tl.float32)
                if HAS_PRE:
                    v = tl.where(inside, PRE(v, pre_a, pre_b), float("-inf"))
                p = tl.maximum(p, v, propagate_nan=tl.PropagateNan.ALL)
        # Offsets anew in every step: pointers kept from one to the next would spill.
        w = tl.load(weight + ((base + k)[:, None] * columns + n[None, :]), k_mask[:, None] & n_mask[None, :], other=0.0)
        acc = tl.dot(multiplicand(p.to(w.dtype), PRECISION), w, acc, input_precision=PRECISION)

    if bias is not None:
        acc += tl.load(bias + n, n_mask, other=0.0)[None, :]
    acc = ACT(acc, act_a, act_b)
    m = (image.to(tl.int64) * out_height + oh) * out_width + ow
    store_rows(
        acc, out, residual, m, n, m_mask, n_mask,
        aligned(out_row, ALIGN_N), aligned(residual_row, ALIGN_N), post_a, post_b, POST,
    )
# fmt: on


def pooled_pointwise(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    *,
    kernel: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    pre_act: Act = IDENTITY,
    act: Act = IDENTITY,
    residual: torch.Tensor | None = None,
    post: Act = IDENTITY,
    precision: str = "ieee",
    tile: choice.Tile | None = None,
) -> Launch:
    """A max pool over windows of `kernel` and a 1x1 convolution; `pads` is (top, left, bottom, right)."""
    stride_n, stride_h, stride_w, stride_c = strides4(x)
    if weight.dim() != 2:
        raise ValueError(f"weight has shape {tuple(weight.shape)}, expected 2-D")
    batch, in_height, in_width, channels = x.shape
    columns = weight.shape[1]
    top, left, bottom, right = pads
    height = output_size(in_height, kernel[0], stride[0], top, bottom, dilation[0])
    width = output_size(in_width, kernel[1], stride[1], left, right, dilation[1])
    check_contiguous(weight, (channels, columns), "weight")
    check_shape(out, (batch, height, width, columns), "out")
    check_vector(bias, columns, "bias")
    if residual is not None:
        check_shape(residual, tuple(out.shape), "residual")
    out_row = row_stride(out, "out")
    residual_row = 0 if residual is None else row_stride(residual, "residual")

    target = target_of(x)
    pixels = choice.planned_batch(batch, target) * height * width
    taps = kernel[0] * kernel[1]
    # Not plain: with one block of columns, there are none to share a window.
    chosen = tile or choice.separable(pixels, columns, channels, weight.element_size(), target, taps, plain=False)
    # On a narrow map a block spans several rows by itself; on a wide one it takes a patch, for its windows to overlap.
    strip = 1 if 2 * width <= chosen.block_m else strip_rows(height, kernel[0], stride[0], chosen.block_m, target)
    positions = batch * choice.cdiv(height, strip) * strip * width
    return Launch(
        "pooled_pointwise",
        _pooled_pointwise,
        (choice.cdiv(positions, chosen.block_m) * choice.cdiv(columns, chosen.block_n),),
        {
            "x": x,
            "weight": weight,
            "bias": bias,
            "residual": residual,
            "out": out,
            "positions": positions,
            "in_height": in_height,
            "in_width": in_width,
            "out_height": height,
            "out_width": width,
            "channels": channels,
            "columns": columns,
            "stride_n": stride_n,
            "stride_h": stride_h,
            "stride_w": stride_w,
            "out_row": out_row,
            "residual_row": residual_row,
            "pool_stride_h": stride[0],
            "pool_stride_w": stride[1],
            "pad_top": top,
            "pad_left": left,
            "dilation_h": dilation[0],
            "dilation_w": dilation[1],
            "pre_a": pre_act.a,
            "pre_b": pre_act.b,
            "act_a": act.a,
            "act_b": act.b,
            "post_a": post.a,
            "post_b": post.b,
        },
        {
            "STRIDE_C": stride_c,
            "KH": kernel[0],
            "KW": kernel[1],
            "UNROLL": unrolled(kernel[1]),
            "STRIP": strip,
            "HAS_PRE": bool(pre_act),
            "PRE": activation(pre_act),
            "ACT": activation(act),
            "POST": activation(post),
            "PRECISION": precision,
            "ALIGN_K": alignment(channels, stride_n, stride_h, stride_w) if stride_c == 1 else 1,
            "ALIGN_N": alignment(columns, out_row, residual_row),
            "BLOCK_M": chosen.block_m,
            "BLOCK_N": chosen.block_n,
            "BLOCK_K": chosen.block_k,
        },
        chosen.num_warps,
        chosen.num_stages,
    )


def reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    *,
    kernel: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    pre_act: Act = IDENTITY,
    act: Act = IDENTITY,
    residual: torch.Tensor | None = None,
    post: Act = IDENTITY,
    precision: str = "ieee",
) -> torch.Tensor:
    """The same in float64; `out` is not read."""
    p = pool.reference(x, out, kind="max", kernel=kernel, stride=stride, pads=pads, dilation=dilation, pre_act=pre_act)
    return reference_epilogue(p @ weight.double(), bias, act, residual, post)
