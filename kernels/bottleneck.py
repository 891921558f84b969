# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""kh x kw convolution feeding a 1x1 convolution, back to back: what lies between stays on chip.

    h[m, :]   = mid(conv(pre(x), conv_weight)[m, :] + conv_bias)               rounded to weight's type, as if stored
    out[m, :] = post(act(h[m, :] @ weight[rows of h] + rest[m, :] @ weight[rows of rest] + bias) + residual[m, :])

m counts output pixels. x is [N, H, W, Cin] with channel stride 1, conv_weight [1, kh, kw, Cin, Ch] (conv2d's `pack`),
weight [Ch + Cr, Cout] (pointwise's `pack`), rest [N, Ho, Wo, Cr], out and residual dense pixels. `rest` is what else
the 1x1 reads, concatenated to h: before it (`rest_first`) or behind it; it may be absent.

A program owns BLOCK_M pixels. It computes all channels of h for them as an implicit GEMM over taps and input channels
(see conv2d), loads all of rest, and then walks the columns of the 1x1 with both as its left operand. 192 channels are
two accumulators of 128 and 64, as blocks are powers of two.

Bound: bytes, mostly those of out and residual; h, one of the two products' biggest operands, never costs any. In
return each program does all columns of its pixels, so few pixels keep few SMs busy (see `bottleneck_tiles.pays`).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from optgraph.ir.values import IDENTITY, Act
from optgraph.kernels import conv2d, pointwise
from optgraph.kernels.frame.bottleneck_tiles import MAX_CHANNELS, bottleneck_tile, pieces
from optgraph.kernels.frame.choice import Tile, cdiv, planned_batch
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
from optgraph.kernels.jit.addressing import alignment
from optgraph.kernels.jit.epilogue import multiplicand, prologue


@triton.jit
def _finish(acc, bias, channels, mask, a, b, MID: tl.constexpr):
    """What comes between the convolutions, on the float32 sums of some of h's channels."""
    if bias is not None:
        acc += tl.load(bias + channels, mask, other=0.0)[None, :]
    return MID(acc, a, b)


# fmt: off
@triton.jit
def _bottleneck(
    x, conv_weight, conv_bias, rest, weight, bias, pre_scale, pre_shift, residual, out,
    rows, in_height, in_width, out_height, out_width, channels, hidden, rest_channels, columns,
    hidden_start, rest_start,  # the first rows of weight that belong to h and to rest
    stride_n, stride_h, stride_w, rest_row, out_row, residual_row,
    taps, kernel_w, conv_stride_h, conv_stride_w, pad_top, pad_left, dilation_h, dilation_w,
    pre_a, pre_b, mid_a, mid_b, act_a, act_b, post_a, post_b,
    PRE: tl.constexpr, MID: tl.constexpr, ACT: tl.constexpr, POST: tl.constexpr,
    HAS_PRE: tl.constexpr, PRECISION: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    HIDDEN_0: tl.constexpr, HIDDEN_1: tl.constexpr, REST_0: tl.constexpr, REST_1: tl.constexpr,
):
    # Shows the compiler the divisibility of sizes that 16 does not divide (see addressing).
    channels, hidden, columns = channels // ALIGN * ALIGN, hidden // ALIGN * ALIGN, columns // ALIGN * ALIGN
    rest_channels, rest_row = rest_channels // ALIGN * ALIGN, rest_row // ALIGN * ALIGN
    out_row, residual_row = out_row // ALIGN * ALIGN, residual_row // ALIGN * ALIGN
    stride_n, stride_h, stride_w = stride_n // ALIGN * ALIGN, stride_h // ALIGN * ALIGN, stride_w // ALIGN * ALIGN
    tap_h, tap_w = dilation_h * stride_h, dilation_w * stride_w  # from one tap to the next
    dtype: tl.constexpr = weight.dtype.element_ty

    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)  # [BLOCK_M]
    k = tl.arange(0, BLOCK_K)
    m_mask = m < rows
    pixel = m.to(tl.int64)
    ow = m % out_width
    oh = m // out_width % out_height
    image = (m // out_width // out_height).to(tl.int64)
    top = oh * conv_stride_h - pad_top
    left = ow * conv_stride_w - pad_left
    # Taps r_first <= r < r_end and s_first <= s < s_end of a row are inside x.
    r_first = tl.cdiv(tl.maximum(-top, 0), dilation_h)
    r_end = tl.where(m_mask, tl.cdiv(tl.maximum(in_height - top, 0), dilation_h), 0)
    s_first = tl.cdiv(tl.maximum(-left, 0), dilation_w)
    s_end = tl.cdiv(tl.maximum(in_width - left, 0), dilation_w)
    origin = image * stride_n + top.to(tl.int64) * stride_h + left.to(tl.int64) * stride_w
    x_block = x + origin[:, None] + k[None, :]  # [BLOCK_M, BLOCK_K], may point before x

    h0 = tl.arange(0, HIDDEN_0)
    h0_mask = h0 < hidden
    acc0 = tl.zeros((BLOCK_M, HIDDEN_0), dtype=tl.float32)
    if HIDDEN_1:
        h1 = HIDDEN_0 + tl.arange(0, HIDDEN_1)
        h1_mask = h1 < hidden
        acc1 = tl.zeros((BLOCK_M, HIDDEN_1), dtype=tl.float32)
    blocks = tl.cdiv(channels, BLOCK_K)
    for step in range(taps * blocks):
        tap = step // blocks
        base = (step - tap * blocks) * BLOCK_K
        r = tap // kernel_w
        s = tap % kernel_w
        k_mask = k < channels - base
        inside = (r_first <= r) & (r < r_end) & (s_first <= s) & (s < s_end)  # [BLOCK_M]
        a_mask = inside[:, None] & k_mask[None, :]
        a = tl.load(x_block + (r * tap_h + s * tap_w + base), a_mask, other=0.0)
        if HAS_PRE:
            a = prologue(a, pre_scale, pre_shift, base + k, k_mask, pre_a, pre_b, PRE)
            a = tl.where(a_mask, a, 0.0)
        a = multiplicand(a.to(dtype), PRECISION)
        w = conv_weight + (tap * channels + base + k)[:, None] * hidden  # [BLOCK_K, 1]
        w0 = tl.load(w + h0[None, :], k_mask[:, None] & h0_mask[None, :], other=0.0)
        acc0 = tl.dot(a, w0, acc0, input_precision=PRECISION)
        if HIDDEN_1:
            w1 = tl.load(w + h1[None, :], k_mask[:, None] & h1_mask[None, :], other=0.0)
            acc1 = tl.dot(a, w1, acc1, input_precision=PRECISION)

    # z = [h, rest], [BLOCK_M, 16 to 256] each, in up to two pieces. Masked channels meet rows of weight that read as 0.
    z0 = multiplicand(_finish(acc0, conv_bias, h0, h0_mask, mid_a, mid_b, MID).to(dtype), PRECISION)
    if HIDDEN_1:
        z1 = multiplicand(_finish(acc1, conv_bias, h1, h1_mask, mid_a, mid_b, MID).to(dtype), PRECISION)
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
        if residual is not None:
            # Asked for now, it arrives while the products run.
            added = tl.load(residual + pixel[:, None] * residual_row + n[None, :], mask, other=0.0)
        w = weight + hidden_start * columns + n[None, :]  # [1, BLOCK_N]
        b0 = tl.load(w + h0[:, None] * columns, h0_mask[:, None] & n_mask[None, :], other=0.0)
        acc = tl.dot(z0, b0, input_precision=PRECISION)
        if HIDDEN_1:
            b1 = tl.load(w + h1[:, None] * columns, h1_mask[:, None] & n_mask[None, :], other=0.0)
            acc = tl.dot(z1, b1, acc, input_precision=PRECISION)
        w = weight + rest_start * columns + n[None, :]
        if REST_0:
            b2 = tl.load(w + r0[:, None] * columns, r0_mask[:, None] & n_mask[None, :], other=0.0)
            acc = tl.dot(z2, b2, acc, input_precision=PRECISION)
        if REST_1:
            b3 = tl.load(w + r1[:, None] * columns, r1_mask[:, None] & n_mask[None, :], other=0.0)
            acc = tl.dot(z3, b3, acc, input_precision=PRECISION)
        if bias is not None:
            acc += tl.load(bias + n, n_mask, other=0.0)[None, :]
        acc = ACT(acc, act_a, act_b)
        if residual is not None:
            acc += added.to(tl.float32)
        acc = POST(acc, post_a, post_b)
        tl.store(out + pixel[:, None] * out_row + n[None, :], acc.to(out.dtype.element_ty), mask)
# fmt: on


def bottleneck(
    x: torch.Tensor,
    conv_weight: torch.Tensor,
    conv_bias: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    *,
    rest: torch.Tensor | None = None,
    rest_first: bool = False,
    stride: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    pre_scale: torch.Tensor | None = None,
    pre_shift: torch.Tensor | None = None,
    pre_act: Act = IDENTITY,
    mid: Act = IDENTITY,
    act: Act = IDENTITY,
    residual: torch.Tensor | None = None,
    post: Act = IDENTITY,
    precision: str = "ieee",
    tile: Tile | None = None,
) -> Launch:
    """A convolution, an activation `mid` and a 1x1 convolution of both h and `rest`; `pads` is (top, left, bottom,
    right)."""
    stride_n, stride_h, stride_w, stride_c = strides4(x)
    if stride_c != 1:
        raise ValueError(f"x needs channel stride 1, got strides {x.stride()}")
    if conv_weight.dim() != 5 or weight.dim() != 2:
        raise ValueError(f"weights have shapes {tuple(conv_weight.shape)}, {tuple(weight.shape)}, expected 5-D and 2-D")
    batch, in_height, in_width, channels = x.shape
    _, kh, kw, _, hidden = conv_weight.shape
    columns = weight.shape[1]
    top, left, bottom, right = pads
    height = output_size(in_height, kh, stride[0], top, bottom, dilation[0])
    width = output_size(in_width, kw, stride[1], left, right, dilation[1])
    rest_channels = 0 if rest is None else rest.shape[-1]
    if max(hidden, rest_channels) > MAX_CHANNELS:
        raise ValueError(f"{hidden} and {rest_channels} channels between the convolutions, over {MAX_CHANNELS}")
    check_contiguous(conv_weight, (1, kh, kw, channels, hidden), "conv_weight")
    check_contiguous(weight, (hidden + rest_channels, columns), "weight")
    check_shape(out, (batch, height, width, columns), "out")
    check_vector(conv_bias, hidden, "conv_bias")
    check_vector(bias, columns, "bias")
    check_vector(pre_scale, channels, "pre_scale")
    check_vector(pre_shift, channels, "pre_shift")
    if rest is not None:
        check_shape(rest, (batch, height, width, rest_channels), "rest")
    if residual is not None:
        check_shape(residual, tuple(out.shape), "residual")
    out_row = row_stride(out, "out")
    rest_row = 0 if rest is None else row_stride(rest, "rest")
    residual_row = 0 if residual is None else row_stride(residual, "residual")

    rows, target = batch * height * width, target_of(x)
    planned = planned_batch(batch, target) * height * width
    chosen = tile or bottleneck_tile(planned, channels, hidden, rest_channels, columns, weight.element_size(), target)
    hidden_0, hidden_1 = pieces(hidden)
    rest_0, rest_1 = pieces(rest_channels) if rest_channels else (0, 0)
    return Launch(
        "bottleneck",
        _bottleneck,
        (cdiv(rows, chosen.block_m),),
        {
            "x": x,
            "conv_weight": conv_weight,
            "conv_bias": conv_bias,
            "rest": rest,
            "weight": weight,
            "bias": bias,
            "pre_scale": pre_scale,
            "pre_shift": pre_shift,
            "residual": residual,
            "out": out,
            "rows": rows,
            "in_height": in_height,
            "in_width": in_width,
            "out_height": height,
            "out_width": width,
            "channels": channels,
            "hidden": hidden,
            "rest_channels": rest_channels,
            "columns": columns,
            "hidden_start": rest_channels if rest_first else 0,
            "rest_start": 0 if rest_first else hidden,
            "stride_n": stride_n,
            "stride_h": stride_h,
            "stride_w": stride_w,
            "rest_row": rest_row,
            "out_row": out_row,
            "residual_row": residual_row,
            "taps": kh * kw,
            "kernel_w": kw,
            "conv_stride_h": stride[0],
            "conv_stride_w": stride[1],
            "pad_top": top,
            "pad_left": left,
            "dilation_h": dilation[0],
            "dilation_w": dilation[1],
            "pre_a": pre_act.a,
            "pre_b": pre_act.b,
            "mid_a": mid.a,
            "mid_b": mid.b,
            "act_a": act.a,
            "act_b": act.b,
            "post_a": post.a,
            "post_b": post.b,
        },
        {
            "PRE": activation(pre_act),
            "MID": activation(mid),
            "ACT": activation(act),
            "POST": activation(post),
            "HAS_PRE": pre_scale is not None or pre_shift is not None or bool(pre_act),
            "PRECISION": precision,
            "ALIGN": alignment(
                channels, stride_n, stride_h, stride_w, hidden, rest_channels, columns, rest_row, out_row, residual_row
            ),
            "BLOCK_M": chosen.block_m,
            "BLOCK_N": chosen.block_n,
            "BLOCK_K": chosen.block_k,
            "HIDDEN_0": hidden_0,
            "HIDDEN_1": hidden_1,
            "REST_0": rest_0,
            "REST_1": rest_1,
        },
        chosen.num_warps,
        chosen.num_stages,
    )


def reference(
    x: torch.Tensor,
    conv_weight: torch.Tensor,
    conv_bias: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    *,
    rest: torch.Tensor | None = None,
    rest_first: bool = False,
    mid: Act = IDENTITY,
    act: Act = IDENTITY,
    residual: torch.Tensor | None = None,
    post: Act = IDENTITY,
    precision: str = "ieee",
    **window: Any,
) -> torch.Tensor:
    """The same in float64, h unrounded; of `out` only the shape is read. window: the convolution's options."""
    z = conv2d.reference(x, conv_weight, conv_bias, out, act=mid, **window)
    if rest is not None:
        z = torch.cat((rest.double(), z) if rest_first else (z, rest.double()), dim=-1)
    return pointwise.reference(z, weight, bias, [out], acts=[act], residual=residual, post=post)[0]
