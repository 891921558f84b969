# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Depthwise convolution: each channel has a k×k filter of its own.

    y[n, oh, ow, c] = sum over (i, j) of weight[i, j, c] * pre(x)[n, oh*sh - top + i*dh, ow*sw - left + j*dw, c]
    out = post(act(y + bias) + residual)

x [N, H, W, C] with any strides, weight [kh, kw, C] contiguous (`pack`), out and residual dense pixels.

Bound by bytes: 2*kh*kw FLOPs for one value in and one out. A program computes a patch of STRIP rows, so that the
kh*kw reads of an input value hit L1 after the first. The conversions to float32 make even 3x3 come near the
instruction limit, so padding costs an extra select only where the prologue turns a zero into something else.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from optgraph.ir.values import IDENTITY, Act
from optgraph.kernels.frame.choice import Tile, cdiv
from optgraph.kernels.frame.launch import Launch, target_of
from optgraph.kernels.frame.operands import (
    check_contiguous,
    check_shape,
    check_vector,
    output_size,
    row_stride,
    strides4,
)
from optgraph.kernels.jit.activations import activation, apply
from optgraph.kernels.jit.addressing import aligned, alignment, row_tile, strip_position, strip_rows, unrolled
from optgraph.kernels.jit.epilogue import prologue, reference_epilogue, reference_prologue, store_rows


# fmt: off
@triton.jit
def _depthwise(
    x, weight, bias, pre_scale, pre_shift, residual, out,
    positions, height, width, out_height, out_width, channels,  # N*strips*Wo*STRIP, H, W, Ho, Wo, C
    x_n, x_h, x_w, X_C: tl.constexpr, out_row, residual_row,
    stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w,
    pre_a, pre_b, act_a, act_b, post_a, post_b,
    PRE: tl.constexpr, ACT: tl.constexpr, POST: tl.constexpr, CLEAR: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, UNROLL: tl.constexpr, STRIP: tl.constexpr,
    ALIGN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    position = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)  # [BLOCK_M]
    n, oh, ow = strip_position(position, out_height, out_width, STRIP)
    m_mask = (position < positions) & (oh < out_height)
    channels = aligned(channels, ALIGN)
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)  # [BLOCK_N]
    c_mask = channel < channels
    image = x + (n.to(tl.int64) * aligned(x_n, ALIGN))[:, None] + (channel * X_C)[None, :]  # [BLOCK_M, BLOCK_N]
    top = oh * stride_h - pad_top
    left = ow * stride_w - pad_left

    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for step in range(KH * KW // UNROLL):
        i = step * UNROLL // KW
        h = top + i * dilation_h
        h_mask = m_mask & (h >= 0) & (h < height)
        row = h.to(tl.int64) * aligned(x_h, ALIGN)
        for u in tl.static_range(UNROLL):
            j = step * UNROLL % KW + u
            w = left + j * dilation_w
            mask = (h_mask & (w >= 0) & (w < width))[:, None] & c_mask[None, :]
            offset = row + w.to(tl.int64) * aligned(x_w, ALIGN)
            v = tl.load(image + offset[:, None], mask, other=0.0)
            v = prologue(v, pre_scale, pre_shift, channel, c_mask, pre_a, pre_b, PRE)
            if CLEAR:
                v = tl.where(mask, v, 0.0)
            tap = tl.load(weight + (i * KW + j) * channels + channel, c_mask, other=0.0).to(tl.float32)
            acc += v * tap[None, :]

    if bias is not None:
        acc += tl.load(bias + channel, c_mask, other=0.0)[None, :]
    acc = ACT(acc, act_a, act_b)
    pixel = ((n * out_height + oh) * out_width + ow).to(tl.int64)
    store_rows(
        acc, out, residual, pixel, channel, m_mask, c_mask,
        aligned(out_row, ALIGN), aligned(residual_row, ALIGN), post_a, post_b, POST,
    )
# fmt: on


def depthwise(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    *,
    stride: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    pre_scale: torch.Tensor | None = None,
    pre_shift: torch.Tensor | None = None,
    pre_act: Act = IDENTITY,
    act: Act = IDENTITY,
    residual: torch.Tensor | None = None,
    post: Act = IDENTITY,
    tile: Tile | None = None,
) -> Launch:
    """One launch of a depthwise convolution; `pads` is (top, left, bottom, right)."""
    x_n, x_h, x_w, x_c = strides4(x)
    batch, height, width, channels = x.shape
    if weight.dim() != 3:
        raise ValueError(f"weight has shape {tuple(weight.shape)}, expected [kh, kw, C]")
    kh, kw, _ = weight.shape
    check_contiguous(weight, (kh, kw, channels), "weight")
    check_vector(bias, channels, "bias")
    check_vector(pre_scale, channels, "pre_scale")
    check_vector(pre_shift, channels, "pre_shift")
    out_height = output_size(height, kh, stride[0], pads[0], pads[2], dilation[0])
    out_width = output_size(width, kw, stride[1], pads[1], pads[3], dilation[1])
    check_shape(out, (batch, out_height, out_width, channels), "out")
    out_row = row_stride(out, "out")
    residual_row = 0
    if residual is not None:
        check_shape(residual, tuple(out.shape), "residual")
        residual_row = row_stride(residual, "residual")

    target = target_of(x)
    tile = tile or row_tile(batch * out_height * out_width, channels, x.element_size(), target)
    strip = strip_rows(out_height, kh, stride[0], tile.block_m, target)
    positions = batch * cdiv(out_height, strip) * strip * out_width
    return Launch(
        "depthwise",
        _depthwise,
        (cdiv(positions, tile.block_m), cdiv(channels, tile.block_n)),
        {
            "x": x,
            "weight": weight,
            "bias": bias,
            "pre_scale": pre_scale,
            "pre_shift": pre_shift,
            "residual": residual,
            "out": out,
            "positions": positions,
            "height": height,
            "width": width,
            "out_height": out_height,
            "out_width": out_width,
            "channels": channels,
            "x_n": x_n,
            "x_h": x_h,
            "x_w": x_w,
            "out_row": out_row,
            "residual_row": residual_row,
            "stride_h": stride[0],
            "stride_w": stride[1],
            "pad_top": pads[0],
            "pad_left": pads[1],
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
            "X_C": x_c,
            "PRE": activation(pre_act),
            "ACT": activation(act),
            "POST": activation(post),
            "CLEAR": pre_shift is not None or apply(torch.zeros(()), pre_act).item() != 0,
            "KH": kh,
            "KW": kw,
            "UNROLL": unrolled(kw),
            "STRIP": strip,
            "ALIGN": alignment(channels, x_n, x_h, x_w, out_row, residual_row),
            "BLOCK_M": tile.block_m,
            "BLOCK_N": tile.block_n,
        },
        tile.num_warps,
        1,  # software pipelining would stage every tap's loads in shared memory
    )


def pack(weight: torch.Tensor) -> torch.Tensor:
    """ONNX weight [C, 1, kh, kw] as [kh, kw, C]."""
    return weight.squeeze(1).permute(1, 2, 0).contiguous()


def reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    *,
    stride: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    pre_scale: torch.Tensor | None = None,
    pre_shift: torch.Tensor | None = None,
    pre_act: Act = IDENTITY,
    act: Act = IDENTITY,
    residual: torch.Tensor | None = None,
    post: Act = IDENTITY,
) -> torch.Tensor:
    """The same in float64; `out` is not read."""
    image = reference_prologue(x, pre_scale, pre_shift, pre_act).permute(0, 3, 1, 2)
    image = F.pad(image, (pads[1], pads[3], pads[0], pads[2]))
    filters = weight.double().permute(2, 0, 1).unsqueeze(1)
    y = F.conv2d(image, filters, stride=stride, dilation=dilation, groups=x.shape[3])
    return reference_epilogue(y.permute(0, 2, 3, 1), bias, act, residual, post)
