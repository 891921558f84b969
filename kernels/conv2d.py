# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""kh x kw convolution as an implicit GEMM: no im2col matrix is ever in memory.

    out[n, oh, ow, :] = post(act(sum_{r,s} pre(x[n, oh*sh - top + r*dh, ow*sw - left + s*dw, :]) @ weight[r, s] + bias)
                             + residual[n, oh, ow, :])

Rows of the GEMM are output pixels, columns output channels, and its depth runs over taps (r, s) and input channels c,
c fastest. Positions outside x contribute zero, the prologue notwithstanding. x is [N, H, W, Cin] with any strides,
weight [groups, kh, kw, Cin/groups, Cout/groups] contiguous (`pack`), out and residual dense pixels.

Three ways to fetch a block of x and weight:
- TMA (sm_90; stride and dilation 1, one group, no prologue): a box of pixels of one tap comes through the copy engine,
  which writes the zeros of the padding itself. Where no tap moves along an axis, that axis merges with its neighbour
  (1xk: images with rows; kx1: rows with columns), so that boxes fit a 17x17 map.
- gathered: block by block of channels within each tap, contiguous channels behind one mask per row.
- flattened: for the few channels of an RGB stem, (r, s, c) as one axis, where a block of 32 holds all 27 of a 3x3.

Bound: FLOPs, 2*kh*kw*Cin for every output value; the taps of neighbouring pixels meet in L1 and L2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from optgraph.ir.values import IDENTITY, Act
from optgraph.kernels.frame import choice
from optgraph.kernels.frame.launch import Block, Launch, describable, target_of, unbound
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
from optgraph.kernels.jit.epilogue import multiplicand, prologue, reference_epilogue, reference_prologue, store_rows
from optgraph.kernels.jit.split_k import joined, span, workspace_bytes

_FLATTEN_BELOW = 16  # channels of a group: the least depth of a tl.dot


# fmt: off
@triton.jit
def _conv2d(
    x, weight, bias, pre_scale, pre_shift, residual, out, workspace,
    rows, in_height, in_width, out_height, out_width, channels, columns, splits,  # channels and columns of one group
    kh, kw, stride_n, stride_h, stride_w, out_row, residual_row,
    conv_stride_h, conv_stride_w, pad_top, pad_left, dilation_h, dilation_w,
    size0, size1, size2, box_step,  # TMA: the output as boxes see it, and from one kernel row to the next along size1
    pre_a, pre_b, act_a, act_b, post_a, post_b,
    STRIDE_C: tl.constexpr, FLATTEN: tl.constexpr, SPLIT: tl.constexpr,
    TMA: tl.constexpr, BOX0: tl.constexpr, BOX1: tl.constexpr, BOX2: tl.constexpr,
    PRE: tl.constexpr, ACT: tl.constexpr, POST: tl.constexpr, HAS_PRE: tl.constexpr, PRECISION: tl.constexpr,
    ALIGN_K: tl.constexpr, ALIGN_N: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):
    # Shows the compiler the divisibility of sizes (see addressing).
    channels, columns = channels // ALIGN_K * ALIGN_K, columns // ALIGN_N * ALIGN_N
    out_row, residual_row = out_row // ALIGN_N * ALIGN_N, residual_row // ALIGN_N * ALIGN_N
    stride_n, stride_h = stride_n // ALIGN_K * ALIGN_K, stride_h // ALIGN_K * ALIGN_K
    stride_w = stride_w // ALIGN_K * ALIGN_K
    tap_h, tap_w = dilation_h * stride_h, dilation_w * stride_w  # from one tap to the next
    # GROUP_M row tiles walk the columns together: both operands stay in L2.
    if TMA:
        tiles1, tiles2 = tl.cdiv(size1, BOX1), tl.cdiv(size2, BOX2)
        tiles_m = tl.cdiv(size0, BOX0) * tiles1 * tiles2
    else:
        tiles_m = tl.cdiv(rows, BLOCK_M)
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
        first2 = pid_m % tiles2 * BOX2
        first1 = pid_m // tiles2 % tiles1 * BOX1
        first0 = pid_m // tiles2 // tiles1 * BOX0
        i = tl.arange(0, BLOCK_M)
        i0, i1, i2 = first0 + i // (BOX1 * BOX2), first1 + i // BOX2 % BOX1, first2 + i % BOX2
        m = (i0 * size1 + i1) * size2 + i2  # [BLOCK_M]
        m_mask = (i0 < size0) & (i1 < size1) & (i2 < size2)
    else:
        m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)  # [BLOCK_M]
        m_mask = m < rows
        ow = m % out_width
        oh = m // out_width % out_height
        image = (m // out_width // out_height).to(tl.int64)
        top = oh * conv_stride_h - pad_top
        left = ow * conv_stride_w - pad_left
        origin = image * stride_n + top.to(tl.int64) * stride_h + left.to(tl.int64) * stride_w
        x_rows = x + first_channel.to(tl.int64) * STRIDE_C + origin[:, None]  # [BLOCK_M, 1], may point before x
        weight += group.to(tl.int64) * (kh * kw * channels * columns)
        # Taps r_first <= r < r_end and s_first <= s < s_end of a row are inside x.
        r_first = tl.cdiv(tl.maximum(-top, 0), dilation_h)
        r_end = tl.where(m_mask, tl.cdiv(tl.maximum(in_height - top, 0), dilation_h), 0)
        s_first = tl.cdiv(tl.maximum(-left, 0), dilation_w)
        s_end = tl.cdiv(tl.maximum(in_width - left, 0), dilation_w)
        x_block = x_rows + (k * STRIDE_C)[None, :]  # [BLOCK_M, BLOCK_K]
        weight_block = weight + (k[:, None] * columns + n[None, :])  # [BLOCK_K, BLOCK_N]

    # One loop over (tap, channel block): the software pipeline never drains between taps.
    blocks = tl.cdiv(channels, BLOCK_K)
    steps = tl.cdiv(kh * kw * channels, BLOCK_K) if FLATTEN else kh * kw * blocks
    first, last = 0, steps
    if SPLIT:
        first, last = span(steps, tl.program_id(2), splits)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for step in range(first, last):
        if FLATTEN:
            index = step * BLOCK_K + k
            c = index % channels
            tap = index // channels
            r = tap // kw  # [BLOCK_K]
            s = tap % kw
            k_mask = index < kh * kw * channels
            a_mask = (r_first[:, None] <= r[None, :]) & (r[None, :] < r_end[:, None])  # [BLOCK_M, BLOCK_K]
            a_mask &= (s_first[:, None] <= s[None, :]) & (s[None, :] < s_end[:, None]) & k_mask[None, :]
            a = tl.load(x_rows + (r * tap_h + s * tap_w + c * STRIDE_C)[None, :], a_mask, other=0.0)
            b = tl.load(weight_block + step * BLOCK_K * columns, k_mask[:, None] & n_mask[None, :], other=0.0)
        else:
            tap = step // blocks
            base = (step - tap * blocks) * BLOCK_K
            r = tap // kw
            s = tap % kw
            c = base + k
            if TMA:
                # Beyond the last channel of a tap x gives zeros, which silence the next tap's weights.
                box = x.load([first0, first1 + (r - pad_top) * box_step, first2 + s - pad_left, base])
                a = box.reshape(BLOCK_M, BLOCK_K)
                b = weight.load([tap * channels + base, first_n])
            else:
                k_mask = k < channels - base
                inside = (r_first <= r) & (r < r_end) & (s_first <= s) & (s < s_end)  # [BLOCK_M]
                a_mask = inside[:, None] & k_mask[None, :]
                a = tl.load(x_block + (r * tap_h + s * tap_w + base * STRIDE_C), a_mask, other=0.0)
                block = (tap * channels + base) * columns
                b = tl.load(weight_block + block, k_mask[:, None] & n_mask[None, :], other=0.0)
        if HAS_PRE:
            a = prologue(a, pre_scale, pre_shift, first_channel + c, k_mask, pre_a, pre_b, PRE)
            a = tl.where(a_mask, a, 0.0)
        acc = tl.dot(multiplicand(a.to(b.dtype), PRECISION), b, acc, input_precision=PRECISION)

    whole = True
    if SPLIT:
        tile = group * tl.num_programs(0) + pid
        acc, whole = joined(acc, workspace, tile, tl.program_id(2), splits, BLOCK_M, BLOCK_N)
    if whole:
        column = group * columns + n
        if bias is not None:
            acc += tl.load(bias + column, n_mask, other=0.0)[None, :]
        acc = ACT(acc, act_a, act_b)
        pixel = m.to(tl.int64)
        store_rows(acc, out, residual, pixel, column, m_mask, n_mask, out_row, residual_row, post_a, post_b, POST)
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
    tile: choice.Tile | None = None,
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

    flatten = channels < _FLATTEN_BELOW
    has_pre = pre_scale is not None or pre_shift is not None or bool(pre_act)
    boxed = None if has_pre or flatten else _boxed(x, weight, stride, pads, dilation, (height, width))
    target = target_of(x)
    planned = choice.planned_batch(batch, target)
    problem = choice.Problem(
        boxed.extent(planned) if boxed else (1, planned * height * width, 1),
        (columns,) * groups,
        kh * kw * channels if flatten else channels,
        weight.element_size(),
        1 if flatten else kh * kw,
        plain=not has_pre and residual is None,
        tma=boxed is not None,
    )
    chosen = tile or choice.choose(problem, target)
    block_m, block_n, block_k, box = chosen.block_m, chosen.block_n, chosen.block_k, chosen.box
    rows = batch * height * width
    image: torch.Tensor | Block = x
    matrix: torch.Tensor | Block = weight
    extent, box_step, row_tiles = (0, 0, 0), 0, choice.cdiv(rows, block_m)
    if box is not None:
        if boxed is None:
            raise ValueError("a tile with a box needs stride and dilation 1, no prologue, and x and weight on 16 bytes")
        image = Block(x, boxed.shape, boxed.strides, (*box, block_k))
        matrix = Block(weight, (kh * kw * channels, columns), (columns, 1), (block_k, block_n))
        extent, box_step = boxed.extent(batch), boxed.step
        row_tiles = choice.blocks_along(extent, box)
    blocks = row_tiles * choice.cdiv(columns, block_n)
    workspace = workspace_bytes(blocks * groups, chosen.splits, block_m, block_n)
    return Launch(
        "conv2d",
        _conv2d,
        (blocks, groups, chosen.splits),
        {
            "x": image,
            "weight": matrix,
            "bias": bias,
            "pre_scale": pre_scale,
            "pre_shift": pre_shift,
            "residual": residual,
            "out": out,
            "workspace": unbound(workspace),
            "rows": rows,
            "in_height": in_height,
            "in_width": in_width,
            "out_height": height,
            "out_width": width,
            "channels": channels,
            "columns": columns,
            "splits": chosen.splits,
            "kh": kh,
            "kw": kw,
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
            **{f"size{axis}": size for axis, size in enumerate(extent)},
            "box_step": box_step,
            "pre_a": pre_act.a,
            "pre_b": pre_act.b,
            "act_a": act.a,
            "act_b": act.b,
            "post_a": post.a,
            "post_b": post.b,
        },
        {
            "STRIDE_C": stride_c,
            "FLATTEN": flatten,
            "SPLIT": chosen.splits > 1,
            "TMA": box is not None,
            **{f"BOX{axis}": size for axis, size in enumerate(box or (0, 0, 0))},
            "PRE": activation(pre_act),
            "ACT": activation(act),
            "POST": activation(post),
            "HAS_PRE": has_pre,
            "PRECISION": precision,
            "ALIGN_K": alignment(channels, stride_n, stride_h, stride_w) if stride_c == 1 else 1,
            "ALIGN_N": alignment(columns, out_row, residual_row),
            "BLOCK_M": block_m,
            "BLOCK_N": block_n,
            "BLOCK_K": block_k,
            "GROUP_M": 8,
        },
        chosen.num_warps,
        chosen.num_stages,
        workspace,
    )


@dataclass(frozen=True)
class _Boxed:
    """x as the copy engine sees it: [size0, size1, size2, Cin].

    image: what of the output one image is, along the three axes; batch_axis: where the next image is.
    step: from one kernel row to the next, along axis 1.
    """

    shape: tuple[int, int, int, int]
    strides: tuple[int, int, int, int]
    image: choice.Box
    batch_axis: int
    step: int

    def extent(self, batch: int) -> choice.Box:
        """Output pixels along the three axes."""
        a, b, c = (size * batch if axis == self.batch_axis else size for axis, size in enumerate(self.image))
        return a, b, c


def _boxed(
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: tuple[int, int],
    pads: tuple[int, int, int, int],
    dilation: tuple[int, int],
    size: tuple[int, int],
) -> _Boxed | None:
    """None where boxes do not do. Axes that no tap crosses and no padding parts are merged."""
    n, h, w, c = x.shape
    stride_n, stride_h, stride_w, stride_c = x.stride()
    groups, kh, kw, _, columns = weight.shape
    if groups > 1 or stride != (1, 1) or dilation != (1, 1) or x.dtype != weight.dtype or stride_c != 1:
        return None
    if not describable(x, (stride_n, stride_h, stride_w)) or not describable(weight, (columns,)):
        return None
    top, left, bottom, right = pads
    height, width = size
    if kw == 1 and left == right == 0 and stride_h == w * stride_w:
        strides = (stride_n, stride_w, stride_w, 1)
        return _Boxed((n, h * w, 1, c), strides, (1, height * width, 1), batch_axis=0, step=w)
    if kh == 1 and top == bottom == 0 and stride_n == h * stride_h:
        strides = (stride_n, stride_h, stride_w, 1)
        return _Boxed((1, n * h, w, c), strides, (1, height, width), batch_axis=1, step=1)
    return _Boxed((n, h, w, c), (stride_n, stride_h, stride_w, 1), (1, height, width), batch_axis=0, step=1)


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
