# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Max and average pooling over windows, and over whole images.

    pool:         out = post(act(pool(pre_act(x)) + bias) + residual)
    global_pool:  out = act(pool(pre_act(x * pre_scale + pre_shift)))

`pool` takes the maximum or the mean of the kh*kw window at (oh*sh - top, ow*sw - left). Padding is -inf to a maximum;
an average divides by kh*kw (count_include_pad) or by the number of positions inside the image. A ceil_mode pool is one
with larger pads at the end. x [N, H, W, C] with any strides, out and residual dense pixels: a concat slice is fine.

`global_pool` reduces [N, H, W, C] to [N, 1, 1, C]; its programs split (n, channel blocks) finely, because one image of
8x8x2048 has to occupy the whole GPU.

Bound by bytes, both. A NaN in a window is a NaN out, also of a maximum.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from optgraph.ir.values import IDENTITY, Act
from optgraph.kernels.frame.choice import Tile, cdiv, ceil_pow2, planned_batch
from optgraph.kernels.frame.launch import Launch, target_of
from optgraph.kernels.frame.operands import check_shape, check_vector, output_size, row_stride, strides4
from optgraph.kernels.jit.activations import activation, apply
from optgraph.kernels.jit.addressing import (
    aligned,
    alignment,
    pixel_offset,
    row_tile,
    strip_position,
    strip_rows,
    unrolled,
)
from optgraph.kernels.jit.epilogue import prologue, reference_epilogue, reference_prologue, store_rows

_KINDS = ("average", "max")
_PROGRAMS = 128  # about one per SM


# fmt: off
@triton.jit
def _pool(
    x, bias, residual, out,
    positions, height, width, out_height, out_width, channels,  # N*strips*Wo*STRIP, H, W, Ho, Wo, C
    x_n, x_h, x_w, X_C: tl.constexpr, out_row, residual_row,
    stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w,
    pre_a, pre_b, act_a, act_b, post_a, post_b,
    PRE: tl.constexpr, ACT: tl.constexpr, POST: tl.constexpr,
    MAX: tl.constexpr, INCLUDE_PAD: tl.constexpr, CLEAR: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, UNROLL: tl.constexpr, STRIP: tl.constexpr,
    ALIGN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    position = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)  # [BLOCK_M]
    n, oh, ow = strip_position(position, out_height, out_width, STRIP)
    m_mask = (position < positions) & (oh < out_height)
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)  # [BLOCK_N]
    c_mask = channel < aligned(channels, ALIGN)
    image = x + (n.to(tl.int64) * aligned(x_n, ALIGN))[:, None] + (channel * X_C)[None, :]  # [BLOCK_M, BLOCK_N]
    top = oh * stride_h - pad_top
    left = ow * stride_w - pad_left

    neutral = float("-inf") if MAX else 0.0
    acc = tl.full((BLOCK_M, BLOCK_N), neutral, dtype=tl.float32)
    count = tl.zeros((BLOCK_M,), dtype=tl.float32)
    for step in range(KH * KW // UNROLL):
        h = top + step * UNROLL // KW * dilation_h
        h_mask = m_mask & (h >= 0) & (h < height)
        row = h.to(tl.int64) * aligned(x_h, ALIGN)
        for u in tl.static_range(UNROLL):
            w = left + (step * UNROLL % KW + u) * dilation_w
            inside = h_mask & (w >= 0) & (w < width)
            mask = inside[:, None] & c_mask[None, :]
            offset = row + w.to(tl.int64) * aligned(x_w, ALIGN)
            v = PRE(tl.load(image + offset[:, None], mask, other=neutral).to(tl.float32), pre_a, pre_b)
            if CLEAR:
                v = tl.where(mask, v, neutral)
            if MAX:
                acc = tl.maximum(acc, v, propagate_nan=tl.PropagateNan.ALL)
            else:
                acc += v
                count += inside.to(tl.float32)

    if not MAX:
        if INCLUDE_PAD:
            acc *= 1.0 / (KH * KW)
        else:
            acc *= (1.0 / tl.maximum(count, 1.0))[:, None]
    if bias is not None:
        acc += tl.load(bias + channel, c_mask, other=0.0)[None, :]
    acc = ACT(acc, act_a, act_b)
    pixel = ((n * out_height + oh) * out_width + ow).to(tl.int64)
    store_rows(
        acc, out, residual, pixel, channel, m_mask, c_mask,
        aligned(out_row, ALIGN), aligned(residual_row, ALIGN), post_a, post_b, POST,
    )


@triton.jit
def _global_pool(
    x, pre_scale, pre_shift, out, pixels, width, channels,  # H*W, W, C
    x_n, x_h, x_w, X_C: tl.constexpr, out_n, pre_a, pre_b, act_a, act_b,
    PRE: tl.constexpr, ACT: tl.constexpr, CLEAR: tl.constexpr, MAX: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    n = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)  # [BLOCK_N]
    c_mask = channel < aligned(channels, ALIGN)
    image = x + n * aligned(x_n, ALIGN) + channel * X_C
    neutral = float("-inf") if MAX else 0.0
    acc = tl.full((BLOCK_M, BLOCK_N), neutral, dtype=tl.float32)
    for start in range(0, pixels, BLOCK_M):
        pixel = start + tl.arange(0, BLOCK_M)  # [BLOCK_M]
        offset = pixel_offset(pixel, pixels, width, 0, aligned(x_h, ALIGN), aligned(x_w, ALIGN))
        mask = (pixel < pixels)[:, None] & c_mask[None, :]
        v = tl.load(image[None, :] + offset[:, None], mask, other=0.0 if CLEAR else neutral)
        v = prologue(v, pre_scale, pre_shift, channel, c_mask, pre_a, pre_b, PRE)
        if CLEAR:
            v = tl.where(mask, v, neutral)
        if MAX:
            acc = tl.maximum(acc, v, propagate_nan=tl.PropagateNan.ALL)
        else:
            acc += v
    if MAX:
        # The reduction itself drops NaNs.
        broken = tl.max((acc != acc).to(tl.int32), axis=0) > 0
        y = tl.where(broken, float("nan"), tl.max(tl.where(acc != acc, neutral, acc), axis=0))
    else:
        y = tl.sum(acc, axis=0) / pixels
    tl.store(out + n * out_n + channel, ACT(y, act_a, act_b).to(out.dtype.element_ty), c_mask)
# fmt: on


def pool(
    x: torch.Tensor,
    out: torch.Tensor,
    *,
    kind: str,
    kernel: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    count_include_pad: bool = False,
    bias: torch.Tensor | None = None,
    act: Act = IDENTITY,
    residual: torch.Tensor | None = None,
    post: Act = IDENTITY,
    pre_act: Act = IDENTITY,
    tile: Tile | None = None,
) -> Launch:
    """One launch of a window pool of `kind` "max" or "average"; `pads` is (top, left, bottom, right)."""
    x_n, x_h, x_w, x_c = strides4(x)
    batch, height, width, channels = x.shape
    _check_kind(kind)
    check_vector(bias, channels, "bias")
    out_height = output_size(height, kernel[0], stride[0], pads[0], pads[2], dilation[0])
    out_width = output_size(width, kernel[1], stride[1], pads[1], pads[3], dilation[1])
    check_shape(out, (batch, out_height, out_width, channels), "out")
    out_row = row_stride(out, "out")
    residual_row = 0
    if residual is not None:
        check_shape(residual, tuple(out.shape), "residual")
        residual_row = row_stride(residual, "residual")

    target = target_of(x)
    tile = tile or row_tile(batch * out_height * out_width, channels, x.element_size(), target)
    strip = strip_rows(out_height, kernel[0], stride[0], tile.block_m, target)
    positions = batch * cdiv(out_height, strip) * strip * out_width
    return Launch(
        "pool",
        _pool,
        (cdiv(positions, tile.block_m), cdiv(channels, tile.block_n)),
        {
            "x": x,
            "bias": bias,
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
            "MAX": kind == "max",
            "INCLUDE_PAD": count_include_pad,
            "CLEAR": _moves_neutral(kind, pre_act),
            "KH": kernel[0],
            "KW": kernel[1],
            "UNROLL": unrolled(kernel[1]),
            "STRIP": strip,
            "ALIGN": alignment(channels, x_n, x_h, x_w, out_row, residual_row),
            "BLOCK_M": tile.block_m,
            "BLOCK_N": tile.block_n,
        },
        tile.num_warps,
        1,  # software pipelining would stage every tap's loads in shared memory
    )


def global_pool(
    x: torch.Tensor,
    out: torch.Tensor,
    *,
    kind: str,
    pre_scale: torch.Tensor | None = None,
    pre_shift: torch.Tensor | None = None,
    pre_act: Act = IDENTITY,
    act: Act = IDENTITY,
    tile: Tile | None = None,
) -> Launch:
    """One launch of a pool over H and W into out [N, 1, 1, C]."""
    x_n, x_h, x_w, x_c = strides4(x)
    batch, height, width, channels = x.shape
    _check_kind(kind)
    check_vector(pre_scale, channels, "pre_scale")
    check_vector(pre_shift, channels, "pre_shift")
    check_shape(out, (batch, 1, 1, channels), "out")
    out_n = row_stride(out, "out")
    tile = tile or global_tile(batch, height * width, channels, target_of(x))
    return Launch(
        "global_pool",
        _global_pool,
        (batch, cdiv(channels, tile.block_n)),
        {
            "x": x,
            "pre_scale": pre_scale,
            "pre_shift": pre_shift,
            "out": out,
            "pixels": height * width,
            "width": width,
            "channels": channels,
            "x_n": x_n,
            "x_h": x_h,
            "x_w": x_w,
            "out_n": out_n,
            "pre_a": pre_act.a,
            "pre_b": pre_act.b,
            "act_a": act.a,
            "act_b": act.b,
        },
        {
            "X_C": x_c,
            "PRE": activation(pre_act),
            "ACT": activation(act),
            # What lies outside the image must come out of the prologue as it went in.
            "CLEAR": pre_scale is not None or pre_shift is not None or _moves_neutral(kind, pre_act),
            "MAX": kind == "max",
            "ALIGN": alignment(channels, x_n, x_h, x_w),
            "BLOCK_M": tile.block_m,
            "BLOCK_N": tile.block_n,
        },
        tile.num_warps,
        1,
    )


def global_tile(batch: int, pixels: int, channels: int, target: str) -> Tile:
    """Channel blocks as wide as still leaves every SM a program, but no narrower than a 32-byte sector."""
    if target == "interpret":
        block_n = min(ceil_pow2(channels), 4096)
        return Tile(min(ceil_pow2(pixels), 2**18 // block_n), block_n)
    batch = planned_batch(batch, target)
    block_n = 128
    while block_n > 16 and batch * cdiv(channels, block_n) < _PROGRAMS:
        block_n //= 2
    return Tile(min(ceil_pow2(pixels), 4096 // block_n), block_n)


def _check_kind(kind: str) -> None:
    if kind not in _KINDS:
        raise ValueError(f"kind is {kind!r}, expected one of {_KINDS}")


def _moves_neutral(kind: str, act: Act) -> bool:
    neutral = float("-inf") if kind == "max" else 0.0
    return apply(torch.tensor(neutral), act).item() != neutral


def reference(
    x: torch.Tensor,
    out: torch.Tensor,
    *,
    kind: str,
    kernel: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    count_include_pad: bool = False,
    bias: torch.Tensor | None = None,
    act: Act = IDENTITY,
    residual: torch.Tensor | None = None,
    post: Act = IDENTITY,
    pre_act: Act = IDENTITY,
) -> torch.Tensor:
    """`pool` in float64, window tap by window tap; `out` is not read."""
    image = apply(x.double(), pre_act).permute(0, 3, 1, 2)
    padding = (pads[1], pads[3], pads[0], pads[2])
    neutral = float("-inf") if kind == "max" else 0.0
    taps = _windows(F.pad(image, padding, value=neutral), kernel, stride, dilation)
    if kind == "max":
        y = taps.amax(0)
    elif count_include_pad:
        y = taps.mean(0)
    else:
        counts = _windows(F.pad(torch.ones_like(image), padding), kernel, stride, dilation).sum(0)
        y = taps.sum(0) / counts.clamp(min=1)
    return reference_epilogue(y.permute(0, 2, 3, 1), bias, act, residual, post)


def _windows(
    image: torch.Tensor, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> torch.Tensor:
    """[kh*kw, N, C, Ho, Wo]: the image as each tap of the window sees it."""
    last_h = image.shape[2] - dilation[0] * (kernel[0] - 1)
    last_w = image.shape[3] - dilation[1] * (kernel[1] - 1)
    return torch.stack(
        [
            image[:, :, h : h + last_h : stride[0], w : w + last_w : stride[1]]
            for h in range(0, dilation[0] * kernel[0], dilation[0])
            for w in range(0, dilation[1] * kernel[1], dilation[1])
        ]
    )


def global_reference(
    x: torch.Tensor,
    out: torch.Tensor,
    *,
    kind: str,
    pre_scale: torch.Tensor | None = None,
    pre_shift: torch.Tensor | None = None,
    pre_act: Act = IDENTITY,
    act: Act = IDENTITY,
) -> torch.Tensor:
    """`global_pool` in float64; `out` is not read."""
    x = reference_prologue(x, pre_scale, pre_shift, pre_act)
    return apply(x.amax((1, 2), keepdim=True) if kind == "max" else x.mean((1, 2), keepdim=True), act)
