# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""kh x kw convolution as an implicit GEMM: no im2col matrix is ever in memory.

    out[n, oh, ow, :] = post(act(sum_{r,s} pre(x[n, oh*sh - top + r*dh, ow*sw - left + s*dw, :]) @ weight[r, s] + bias)
                             + residual[n, oh, ow, :])

Rows of the GEMM are output pixels, columns output channels, and its depth runs over taps (r, s) and input channels c,
c fastest. Positions outside x contribute zero, the prologue notwithstanding. x is [N, H, W, Cin] with any strides,
weight [groups, kh, kw, Cin/groups, Cout/groups] contiguous (`pack`), out and residual dense pixels.

Two walks along the depth: block by block of channels within each tap, which reads contiguous channels behind one mask
per row; or, for the few channels of an RGB stem, the flattened (r, s, c), where a block of 32 holds all 27 of a 3x3.

Bound: FLOPs, 2*kh*kw*Cin for every output value; the taps of neighbouring pixels meet in L1 and L2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from optgraph.kernels import tiles
from optgraph.kernels.activations import activation
from optgraph.kernels.addressing import alignment
from optgraph.kernels.epilogue import prologue, reference_epilogue, reference_prologue, store_rows
from optgraph.kernels.launch import Launch, target_of
from optgraph.kernels.layout import check_contiguous, check_shape, check_vector, output_size, row_stride, strides4
from optgraph.ops import IDENTITY, Act

_FLATTEN_BELOW = 16  # channels of a group: the least depth of a tl.dot


# fmt: off
@triton.jit
def _conv2d(
    x, weight, bias, pre_scale, pre_shift, residual, out,
    rows, in_height, in_width, out_height, out_width, channels, columns,  # channels and columns of one group
    stride_n, stride_h, stride_w, STRIDE_C: tl.constexpr, out_row, residual_row,
    conv_stride_h, conv_stride_w, pad_top, pad_left, dilation_h, dilation_w,
    pre_a, pre_b, act_a, act_b, post_a, post_b,
    KH: tl.constexpr, KW: tl.constexpr, FLATTEN: tl.constexpr,
    PRE: tl.constexpr, ACT: tl.constexpr, POST: tl.constexpr, HAS_PRE: tl.constexpr, PRECISION: tl.constexpr,
    ALIGN_K: tl.constexpr, ALIGN_N: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):
    # Shows the compiler the divisibility of sizes that 16 does not divide (see addressing).
    channels, columns = channels // ALIGN_K * ALIGN_K, columns // ALIGN_N * ALIGN_N
    out_row, residual_row = out_row // ALIGN_N * ALIGN_N, residual_row // ALIGN_N * ALIGN_N
    stride_n, stride_h = stride_n // ALIGN_K * ALIGN_K, stride_h // ALIGN_K * ALIGN_K
    stride_w = stride_w // ALIGN_K * ALIGN_K
    tap_h, tap_w = dilation_h * stride_h, dilation_w * stride_w  # from one tap to the next
    # GROUP_M row tiles walk the columns together: both operands stay in L2.
    tiles_n = tl.cdiv(columns, BLOCK_N)
    pid = tl.program_id(0)
    first_m = pid // (GROUP_M * tiles_n) * GROUP_M
    group_m = tl.minimum(tl.cdiv(rows, BLOCK_M) - first_m, GROUP_M)
    within = pid % (GROUP_M * tiles_n)
    m = (first_m + within % group_m) * BLOCK_M + tl.arange(0, BLOCK_M)  # [BLOCK_M]
    n = within // group_m * BLOCK_N + tl.arange(0, BLOCK_N)  # [BLOCK_N], within the group
    k = tl.arange(0, BLOCK_K)
    m_mask = m < rows
    n_mask = n < columns
    group = tl.program_id(1)
    first_channel = group * channels

    ow = m % out_width
    oh = m // out_width % out_height
    image = (m // out_width // out_height).to(tl.int64)
    top = oh * conv_stride_h - pad_top
    left = ow * conv_stride_w - pad_left
    origin = image * stride_n + top.to(tl.int64) * stride_h + left.to(tl.int64) * stride_w
    x_rows = x + first_channel.to(tl.int64) * STRIDE_C + origin[:, None]  # [BLOCK_M, 1], may point before x
    weight += group.to(tl.int64) * (KH * KW * channels * columns)

    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    if FLATTEN:
        depth = KH * KW * channels
        for base in range(0, depth, BLOCK_K):
            index = base + k
            c = index % channels
            tap = index // channels
            h = tap // KW * dilation_h  # [BLOCK_K], from the top left tap
            w = tap % KW * dilation_w
            k_mask = index < depth
            ih = top[:, None] + h[None, :]  # [BLOCK_M, BLOCK_K]
            iw = left[:, None] + w[None, :]
            inside = (ih >= 0) & (ih < in_height) & (iw >= 0) & (iw < in_width)
            inside &= m_mask[:, None] & k_mask[None, :]
            a = tl.load(x_rows + (h * stride_h + w * stride_w + c * STRIDE_C)[None, :], inside, other=0.0)
            b = tl.load(weight + index[:, None] * columns + n[None, :], k_mask[:, None] & n_mask[None, :], other=0.0)
            if HAS_PRE:
                a = prologue(a, pre_scale, pre_shift, first_channel + c, k_mask, pre_a, pre_b, PRE)
                a = tl.where(inside, a, 0.0)
            acc = tl.dot(a.to(b.dtype), b, acc, input_precision=PRECISION)
    else:
        # Taps r_first <= r < r_end and s_first <= s < s_end of a row are inside x.
        r_first = tl.cdiv(tl.maximum(-top, 0), dilation_h)
        r_end = tl.where(m_mask, tl.cdiv(tl.maximum(in_height - top, 0), dilation_h), 0)
        s_first = tl.cdiv(tl.maximum(-left, 0), dilation_w)
        s_end = tl.cdiv(tl.maximum(in_width - left, 0), dilation_w)
        x_block = x_rows + (k * STRIDE_C)[None, :]  # [BLOCK_M, BLOCK_K]
        weight_block = weight + (k[:, None] * columns + n[None, :])  # [BLOCK_K, BLOCK_N]
        # One loop over (tap, channel block): the software pipeline never drains between taps.
        blocks = tl.cdiv(channels, BLOCK_K)
        for step in range(KH * KW * blocks):
            tap = step // blocks
            base = (step - tap * blocks) * BLOCK_K
            r = tap // KW
            s = tap % KW
            k_mask = k < channels - base
            inside = (r_first <= r) & (r < r_end) & (s_first <= s) & (s < s_end)  # [BLOCK_M]
            a_mask = inside[:, None] & k_mask[None, :]
            a = tl.load(x_block + (r * tap_h + s * tap_w + base * STRIDE_C), a_mask, other=0.0)
            b = tl.load(weight_block + (tap * channels + base) * columns, k_mask[:, None] & n_mask[None, :], other=0.0)
            if HAS_PRE:
                a = prologue(a, pre_scale, pre_shift, first_channel + base + k, k_mask, pre_a, pre_b, PRE)
                a = tl.where(a_mask, a, 0.0)
            acc = tl.dot(a.to(b.dtype), b, acc, input_precision=PRECISION)

    column = group * columns + n
    if bias is not None:
        acc += tl.load(bias + column, n_mask, other=0.0)[None, :]
    acc = ACT(acc, act_a, act_b)
    store_rows(acc, out, residual, m.to(tl.int64), column, m_mask, n_mask, out_row, residual_row, post_a, post_b, POST)
# fmt: on


def conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    *,
    stride: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    act: Act = IDENTITY,
    pre_scale: torch.Tensor | None = None,
    pre_shift: torch.Tensor | None = None,
    pre_act: Act = IDENTITY,
    residual: torch.Tensor | None = None,
    post: Act = IDENTITY,
    precision: str = "ieee",
    tile: tiles.Tile | None = None,
) -> Launch:
    """A convolution with kh, kw read from the packed weight; `pads` is (top, left, bottom, right)."""
    stride_n, stride_h, stride_w, stride_c = strides4(x)
    if weight.dim() != 5 or weight.shape[0] != groups:
        expected = f"[{groups}, kh, kw, Cin/groups, Cout/groups]"
        raise ValueError(f"weight has shape {tuple(weight.shape)}, expected {expected}")
    _, kh, kw, channels, columns = weight.shape
    batch, in_height, in_width, _ = x.shape
    top, left, bottom, right = pads
    height = output_size(in_height, kh, stride[0], top, bottom, dilation[0])
    width = output_size(in_width, kw, stride[1], left, right, dilation[1])
    check_shape(x, (batch, in_height, in_width, groups * channels), "x")
    check_shape(out, (batch, height, width, groups * columns), "out")
    check_contiguous(weight, tuple(weight.shape), "weight")
    check_vector(bias, groups * columns, "bias")
    check_vector(pre_scale, groups * channels, "pre_scale")
    check_vector(pre_shift, groups * channels, "pre_shift")
    if residual is not None:
        check_shape(residual, tuple(out.shape), "residual")
    out_row = row_stride(out, "out")
    residual_row = 0 if residual is None else row_stride(residual, "residual")

    rows = batch * height * width
    flatten = channels < _FLATTEN_BELOW
    has_pre = pre_scale is not None or pre_shift is not None or bool(pre_act)
    depth, taps = (kh * kw * channels, 1) if flatten else (channels, kh * kw)
    plain = not has_pre and residual is None
    chosen = tile or tiles.gemm(rows, columns, depth, weight.element_size(), target_of(x), taps, plain)
    return Launch(
        "conv2d",
        _conv2d,
        (tiles.cdiv(rows, chosen.block_m) * tiles.cdiv(columns, chosen.block_n), groups),
        {
            "x": x,
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
            "act_a": act.a,
            "act_b": act.b,
            "post_a": post.a,
            "post_b": post.b,
        },
        {
            "STRIDE_C": stride_c,
            "KH": kh,
            "KW": kw,
            "FLATTEN": flatten,
            "PRE": activation(pre_act),
            "ACT": activation(act),
            "POST": activation(post),
            "HAS_PRE": has_pre,
            "PRECISION": precision,
            "ALIGN_K": alignment(channels, stride_n, stride_h, stride_w) if stride_c == 1 else 1,
            "ALIGN_N": alignment(columns, out_row, residual_row),
            "BLOCK_M": chosen.block_m,
            "BLOCK_N": chosen.block_n,
            "BLOCK_K": chosen.block_k,
            "GROUP_M": 8,
        },
        chosen.num_warps,
        chosen.num_stages,
    )


def pack(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """ONNX weight [Cout, Cin/groups, kh, kw] as [groups, kh, kw, Cin/groups, Cout/groups]."""
    return weight.reshape(groups, -1, *weight.shape[1:]).permute(0, 3, 4, 2, 1).contiguous()


def reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    *,
    stride: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    act: Act = IDENTITY,
    pre_scale: torch.Tensor | None = None,
    pre_shift: torch.Tensor | None = None,
    pre_act: Act = IDENTITY,
    residual: torch.Tensor | None = None,
    post: Act = IDENTITY,
    precision: str = "ieee",
) -> torch.Tensor:
    """The same in float64; `out` is not read."""
    x = reference_prologue(x, pre_scale, pre_shift, pre_act).permute(0, 3, 1, 2)
    top, left, bottom, right = pads
    onnx_weight = weight.double().permute(0, 4, 3, 1, 2).flatten(0, 1)
    y = F.conv2d(F.pad(x, (left, right, top, bottom)), onnx_weight, None, stride, 0, dilation, groups)
    return reference_epilogue(y.permute(0, 2, 3, 1), bias, act, residual, post)
