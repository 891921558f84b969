# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Depthwise convolution feeding a 1x1 convolution: the tensor between them is never in memory.

    d[m, c]   = mid(sum_{r,s} pre(x[n, oh*sh - top + r*dh, ow*sw - left + s*dw, c]) * depthwise[r, s, c]
                    + depthwise_bias[c])                                                          m = (n, oh, ow)
    out[m, :] = post(act(d[m, :] @ weight + bias) + residual[m, :])

x is [N, H, W, C] with any strides, depthwise [kh, kw, C] (`pack_depthwise`), weight [C, Cout] (`pointwise.pack`), both
contiguous; out and residual dense pixels. Positions outside x contribute zero, the prologue notwithstanding. d is
rounded to the weight's type, as if it had been stored.

Bound: bytes on large maps, where d would cost a write and a read of the whole map; on small maps with many channels
the depthwise arithmetic, which every program repeats for its columns: hence wide blocks, and up to three of them side
by side in one program, with an accumulator each.
The depthwise sum is made in registers, straight in the layout of the product's A operand. With software pipelining the
compiler would stage all shifted loads in shared memory (more than an SM has) and spill; so the loops have one stage,
and the taps of one window row, unrolled, are the loads in flight.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from optgraph.ir.values import IDENTITY, Act
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
from optgraph.kernels.jit.activations import activation, apply
from optgraph.kernels.jit.addressing import alignment, strip_position, strip_rows
from optgraph.kernels.jit.epilogue import multiplicand, reference_epilogue, reference_prologue, store_rows


# fmt: off
@triton.jit
def _separable(
    x, depthwise, depthwise_bias, weight, bias, pre_scale, pre_shift, residual, out,
    positions, in_height, in_width, out_height, out_width, channels, columns,  # N*strips*STRIP*Wo, then H, W, ...
    stride_n, stride_h, stride_w, STRIDE_C: tl.constexpr, out_row, residual_row,
    conv_stride_h, conv_stride_w, pad_top, pad_left, dilation_h, dilation_w,
    pre_a, pre_b, mid_a, mid_b, act_a, act_b, post_a, post_b,
    KH: tl.constexpr, KW: tl.constexpr, STRIP: tl.constexpr, HAS_PRE: tl.constexpr,
    PRE: tl.constexpr, MID: tl.constexpr, ACT: tl.constexpr, POST: tl.constexpr, PRECISION: tl.constexpr,
    ALIGN_K: tl.constexpr, ALIGN_N: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, ACCUMULATORS: tl.constexpr,
):
    # Shows the compiler the divisibility of sizes that 16 does not divide (see addressing).
    channels, columns = channels // ALIGN_K * ALIGN_K, columns // ALIGN_N * ALIGN_N
    out_row, residual_row = out_row // ALIGN_N * ALIGN_N, residual_row // ALIGN_N * ALIGN_N
    stride_n, stride_h = stride_n // ALIGN_K * ALIGN_K, stride_h // ALIGN_K * ALIGN_K
    stride_w = stride_w // ALIGN_K * ALIGN_K
    tap_h, tap_w = dilation_h * stride_h, dilation_w * stride_w  # from one tap to the next
    # Columns vary fastest: programs that repeat a depthwise run together and read x from L2.
    tiles_n = tl.cdiv(columns, BLOCK_N * ACCUMULATORS)
    pid = tl.program_id(0)
    position = pid // tiles_n * BLOCK_M + tl.arange(0, BLOCK_M)  # [BLOCK_M]
    n = pid % tiles_n * (BLOCK_N * ACCUMULATORS) + tl.arange(0, BLOCK_N)  # [BLOCK_N], of the first accumulator
    k = tl.arange(0, BLOCK_K)

    image, oh, ow = strip_position(position, out_height, out_width, STRIP)
    m_mask = (position < positions) & (oh < out_height)
    top = oh * conv_stride_h - pad_top
    left = ow * conv_stride_w - pad_left
    # Taps r_first <= r < r_end and s_first <= s < s_end of a pixel are inside x.
    r_first = tl.cdiv(tl.maximum(-top, 0), dilation_h)
    r_end = tl.where(m_mask, tl.cdiv(tl.maximum(in_height - top, 0), dilation_h), 0)
    s_first = tl.cdiv(tl.maximum(-left, 0), dilation_w)
    s_end = tl.cdiv(tl.maximum(in_width - left, 0), dilation_w)
    origin = image.to(tl.int64) * stride_n + top.to(tl.int64) * stride_h + left.to(tl.int64) * stride_w
    x_block = x + origin[:, None] + (k * STRIDE_C)[None, :]  # [BLOCK_M, BLOCK_K], may point before x

    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    acc1, acc2 = acc, acc
    for base in tl.range(0, channels, BLOCK_K, num_stages=1):
        c = base + k
        k_mask = c < channels
        if pre_scale is not None:
            scale = tl.load(pre_scale + c, k_mask, other=0.0)[None, :]
        if pre_shift is not None:
            shift = tl.load(pre_shift + c, k_mask, other=0.0)[None, :]
        d = tl.zeros((BLOCK_M, BLOCK_K), dtype=tl.float32)
        for r in tl.range(0, KH, num_stages=1):
            row_mask = (r_first <= r) & (r < r_end)
            for s in tl.static_range(KW):
                inside = (row_mask & (s_first <= s) & (s < s_end))[:, None] & k_mask[None, :]
                a = tl.load(x_block + (base * STRIDE_C + r * tap_h + s * tap_w), inside, other=0.0).to(tl.float32)
                if HAS_PRE:
                    if pre_scale is not None:
                        a *= scale
                    if pre_shift is not None:
                        a += shift
                    a = tl.where(inside, PRE(a, pre_a, pre_b), 0.0)
                tap = tl.load(depthwise + (r * KW + s) * channels + c, k_mask, other=0.0).to(tl.float32)
                d += a * tap[None, :]
        if depthwise_bias is not None:
            d += tl.load(depthwise_bias + c, k_mask, other=0.0)[None, :]
        d = MID(d, mid_a, mid_b)
        a = multiplicand(d.to(weight.dtype.element_ty), PRECISION)
        w_block = weight + (c[:, None] * columns + n[None, :])  # [BLOCK_K, BLOCK_N]; kept, it would take registers
        w = tl.load(w_block, k_mask[:, None] & (n < columns)[None, :], other=0.0)
        acc = tl.dot(a, w, acc, input_precision=PRECISION)
        if ACCUMULATORS > 1:
            w = tl.load(w_block + BLOCK_N, k_mask[:, None] & (n + BLOCK_N < columns)[None, :], other=0.0)
            acc1 = tl.dot(a, w, acc1, input_precision=PRECISION)
        if ACCUMULATORS > 2:
            w = tl.load(w_block + 2 * BLOCK_N, k_mask[:, None] & (n + 2 * BLOCK_N < columns)[None, :], other=0.0)
            acc2 = tl.dot(a, w, acc2, input_precision=PRECISION)

    m = (image.to(tl.int64) * out_height + oh) * out_width + ow
    for i in tl.static_range(ACCUMULATORS):
        if i > 0:
            acc = acc1 if i == 1 else acc2
            n += BLOCK_N
        n_mask = n < columns
        if bias is not None:
            acc += tl.load(bias + n, n_mask, other=0.0)[None, :]
        acc = ACT(acc, act_a, act_b)
        store_rows(acc, out, residual, m, n, m_mask, n_mask, out_row, residual_row, post_a, post_b, POST)
# fmt: on


def separable(
    x: torch.Tensor,
    depthwise: torch.Tensor,
    depthwise_bias: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    *,
    stride: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    pre_act: Act = IDENTITY,
    pre_scale: torch.Tensor | None = None,
    pre_shift: torch.Tensor | None = None,
    mid: Act = IDENTITY,
    act: Act = IDENTITY,
    residual: torch.Tensor | None = None,
    post: Act = IDENTITY,
    precision: str = "ieee",
    tile: choice.Tile | None = None,
) -> Launch:
    """A depthwise convolution, an activation `mid` and a 1x1 convolution; `pads` is (top, left, bottom, right)."""
    stride_n, stride_h, stride_w, stride_c = strides4(x)
    if depthwise.dim() != 3 or weight.dim() != 2:
        raise ValueError(f"weights have shapes {tuple(depthwise.shape)}, {tuple(weight.shape)}, expected 3-D and 2-D")
    batch, in_height, in_width, channels = x.shape
    kh, kw, _ = depthwise.shape
    columns = weight.shape[1]
    top, left, bottom, right = pads
    height = output_size(in_height, kh, stride[0], top, bottom, dilation[0])
    width = output_size(in_width, kw, stride[1], left, right, dilation[1])
    check_contiguous(depthwise, (kh, kw, channels), "depthwise")
    check_contiguous(weight, (channels, columns), "weight")
    check_shape(out, (batch, height, width, columns), "out")
    check_vector(depthwise_bias, channels, "depthwise_bias")
    check_vector(bias, columns, "bias")
    check_vector(pre_scale, channels, "pre_scale")
    check_vector(pre_shift, channels, "pre_shift")
    if residual is not None:
        check_shape(residual, tuple(out.shape), "residual")
    out_row = row_stride(out, "out")
    residual_row = 0 if residual is None else row_stride(residual, "residual")

    target = target_of(x)
    pixels = choice.planned_batch(batch, target) * height * width
    plain = pre_scale is None and pre_shift is None
    chosen = tile or choice.separable(pixels, columns, channels, weight.element_size(), target, kh * kw, plain)
    # On a narrow map a block spans several rows by itself; on a wide one it takes a patch, for its windows to overlap.
    strip = 1 if 2 * width <= chosen.block_m else strip_rows(height, kh, stride[0], chosen.block_m, target)
    positions = batch * choice.cdiv(height, strip) * strip * width
    return Launch(
        "separable",
        _separable,
        (choice.cdiv(positions, chosen.block_m) * choice.cdiv(columns, chosen.block_n * chosen.accumulators),),
        {
            "x": x,
            "depthwise": depthwise,
            "depthwise_bias": depthwise_bias,
            "weight": weight,
            "bias": bias,
            "pre_scale": pre_scale,
            "pre_shift": pre_shift,
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
            "STRIDE_C": stride_c,
            "KH": kh,
            "KW": kw,
            "STRIP": strip,
            "HAS_PRE": pre_scale is not None or pre_shift is not None or bool(pre_act),
            "PRE": activation(pre_act),
            "MID": activation(mid),
            "ACT": activation(act),
            "POST": activation(post),
            "PRECISION": precision,
            "ALIGN_K": alignment(channels, stride_n, stride_h, stride_w) if stride_c == 1 else 1,
            "ALIGN_N": alignment(columns, out_row, residual_row),
            "BLOCK_M": chosen.block_m,
            "BLOCK_N": chosen.block_n,
            "BLOCK_K": chosen.block_k,
            "ACCUMULATORS": chosen.accumulators,
        },
        chosen.num_warps,
        chosen.num_stages,
    )


def pack_depthwise(weight: torch.Tensor) -> torch.Tensor:
    """ONNX depthwise weight [C, 1, kh, kw] as [kh, kw, C]."""
    return weight.squeeze(1).permute(1, 2, 0).contiguous()


def reference(
    x: torch.Tensor,
    depthwise: torch.Tensor,
    depthwise_bias: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    *,
    stride: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    pre_act: Act = IDENTITY,
    pre_scale: torch.Tensor | None = None,
    pre_shift: torch.Tensor | None = None,
    mid: Act = IDENTITY,
    act: Act = IDENTITY,
    residual: torch.Tensor | None = None,
    post: Act = IDENTITY,
    precision: str = "ieee",
) -> torch.Tensor:
    """The same in float64; `out` is not read."""
    x = reference_prologue(x, pre_scale, pre_shift, pre_act).permute(0, 3, 1, 2)
    top, left, bottom, right = pads
    onnx_depthwise = depthwise.double().permute(2, 0, 1).unsqueeze(1)
    offset = None if depthwise_bias is None else depthwise_bias.double()
    padded = F.pad(x, (left, right, top, bottom))
    d = apply(F.conv2d(padded, onnx_depthwise, offset, stride, 0, dilation, x.shape[1]), mid)
    return reference_epilogue(d.permute(0, 2, 3, 1) @ weight.double(), bias, act, residual, post)
