# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""1x1 convolution as a GEMM whose columns may belong to several outputs.

    out_i[m, :] = act_i(pre(x[pixel(m), :]) @ weight[:, columns of i] + bias[columns of i])       i < 4
    one output:  out[m, :] = post(act(pre(x[pixel(m), :]) @ weight + bias) + residual[m, :])

m counts output pixels (n, oh, ow); pixel(m) = (n, oh*stride_h, ow*stride_w). x is [N, H, W, K] with any strides,
weight [K, sum C_i] contiguous (`pack`), each output dense pixels with a row stride of its own, so sibling convolutions
of one input become one launch that reads x once and writes each result straight into its concat slice.

Bound: a 1x1 with K and C channels does 2KC FLOPs for (K + C) values moved per pixel; an H100 in fp16 needs about 300
FLOPs a byte, so below some 300 channels the bytes bound it. Programs are ordered so that those which share rows of x
or columns of weight run close together and meet in L2.

On sm_90, where x is flat (a row stride, no convolution stride) and everything lies on 16 bytes, blocks of x and weight
come through the copy engine (TMA); else every thread fetches its own addresses, which any strides allow.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from optgraph.ir.values import IDENTITY, Act
from optgraph.kernels.frame import choice
from optgraph.kernels.frame.launch import Block, Launch, describable, target_of, unbound
from optgraph.kernels.frame.operands import (
    check_contiguous,
    check_shape,
    check_vector,
    flat_pixels,
    row_stride,
    strides4,
)
from optgraph.kernels.jit.activations import activation
from optgraph.kernels.jit.addressing import alignment
from optgraph.kernels.jit.epilogue import multiplicand, prologue, reference_epilogue, reference_prologue, store_rows
from optgraph.kernels.jit.split_k import joined, span, workspace_bytes

MAX_SEGMENTS = 4


# fmt: off
@triton.jit
def _pointwise(
    x, weight, bias, pre_scale, pre_shift, residual, out0, out1, out2, out3, workspace,
    rows, width, pixels, channels, columns, splits,  # M, Wo, Ho*Wo, K, sum C_i
    stride_n, stride_h, stride_w,  # of x, the convolution's stride included
    columns0, columns1, columns2, columns3, row0, row1, row2, row3, residual_row, act_bits,
    pre_a, pre_b, act_a, act_b, post_a, post_b,
    STRIDE_C: tl.constexpr, TMA: tl.constexpr, FLAT: tl.constexpr, SEGMENTED: tl.constexpr, SPLIT: tl.constexpr,
    PRE: tl.constexpr, ACT: tl.constexpr, POST: tl.constexpr, HAS_PRE: tl.constexpr, PRECISION: tl.constexpr,
    ALIGN_K: tl.constexpr, ALIGN_N: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):
    # Shows the compiler the divisibility of sizes (see addressing).
    channels = channels // ALIGN_K * ALIGN_K
    stride_n, stride_h = stride_n // ALIGN_K * ALIGN_K, stride_h // ALIGN_K * ALIGN_K
    stride_w = stride_w // ALIGN_K * ALIGN_K
    columns, residual_row = columns // ALIGN_N * ALIGN_N, residual_row // ALIGN_N * ALIGN_N
    columns0, row0 = columns0 // ALIGN_N * ALIGN_N, row0 // ALIGN_N * ALIGN_N
    # Column tiles are counted per segment, so that none straddles two outputs.
    tiles_n = tl.cdiv(columns0, BLOCK_N)
    if SEGMENTED:
        columns1, row1 = columns1 // ALIGN_N * ALIGN_N, row1 // ALIGN_N * ALIGN_N
        columns2, row2 = columns2 // ALIGN_N * ALIGN_N, row2 // ALIGN_N * ALIGN_N
        columns3, row3 = columns3 // ALIGN_N * ALIGN_N, row3 // ALIGN_N * ALIGN_N
        end0 = tiles_n
        end1 = end0 + tl.cdiv(columns1, BLOCK_N)
        end2 = end1 + tl.cdiv(columns2, BLOCK_N)
        tiles_n = end2 + tl.cdiv(columns3, BLOCK_N)
    # GROUP_M row tiles walk the columns together: both operands stay in L2.
    tiles_m = tl.cdiv(rows, BLOCK_M)
    pid = tl.program_id(0)
    first_m = pid // (GROUP_M * tiles_n) * GROUP_M
    group = tl.minimum(tiles_m - first_m, GROUP_M)
    within = pid % (GROUP_M * tiles_n)
    pid_m = first_m + within % group
    pid_n = within // group

    out, size, row, start, first_n, segment = out0, columns0, row0, 0, 0, 0
    if SEGMENTED:
        if pid_n >= end0:
            out, size, row, start, first_n, segment = out1, columns1, row1, columns0, end0, 1
        if pid_n >= end1:
            out, size, row, start, first_n, segment = out2, columns2, row2, columns0 + columns1, end1, 2
        if pid_n >= end2:
            out, size, row, start, first_n, segment = out3, columns3, row3, columns0 + columns1 + columns2, end2, 3

    first_column = (pid_n - first_n) * BLOCK_N  # within the segment
    m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)  # [BLOCK_M]
    n = first_column + tl.arange(0, BLOCK_N)  # [BLOCK_N]
    k = tl.arange(0, BLOCK_K)
    m_mask = m < rows
    n_mask = n < size
    if not TMA:
        if FLAT:
            offsets = m.to(tl.int64) * stride_w
        else:
            offsets = (m // pixels).to(tl.int64) * stride_n
            offsets += (m % pixels // width).to(tl.int64) * stride_h + (m % width).to(tl.int64) * stride_w
        x_block = x + offsets[:, None] + (k * STRIDE_C)[None, :]  # [BLOCK_M, BLOCK_K]
        weight_block = weight + k[:, None] * columns + (start + n)[None, :]  # [BLOCK_K, BLOCK_N]

    steps = tl.cdiv(channels, BLOCK_K)
    first, last = 0, steps
    if SPLIT:
        first, last = span(steps, tl.program_id(1), splits)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for step in range(first, last):
        base = step * BLOCK_K
        if TMA:
            # Zeros beyond the depth. Columns may be the next segment's: they are never stored.
            a = x.load([pid_m * BLOCK_M, base])
            w = weight.load([base, start + first_column])
        else:
            k_mask = k < channels - base
            a = tl.load(x_block + base * STRIDE_C, m_mask[:, None] & k_mask[None, :], other=0.0)
            w = tl.load(weight_block + base * columns, k_mask[:, None] & n_mask[None, :], other=0.0)
        if HAS_PRE:
            a = prologue(a, pre_scale, pre_shift, base + k, k < channels - base, pre_a, pre_b, PRE)
        acc = tl.dot(multiplicand(a.to(w.dtype), PRECISION), w, acc, input_precision=PRECISION)

    whole = True
    if SPLIT:
        acc, whole = joined(acc, workspace, pid, tl.program_id(1), splits, BLOCK_M, BLOCK_N)
    if whole:
        if bias is not None:
            acc += tl.load(bias + start + n, n_mask, other=0.0)[None, :]
        if SEGMENTED:
            if (act_bits >> segment) & 1:
                acc = ACT(acc, act_a, act_b)
        else:
            acc = ACT(acc, act_a, act_b)
        store_rows(acc, out, residual, m.to(tl.int64), n, m_mask, n_mask, row, residual_row, post_a, post_b, POST)
# fmt: on


def pointwise(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    outs: Sequence[torch.Tensor],
    *,
    stride: tuple[int, int] = (1, 1),
    acts: Sequence[Act] = (IDENTITY,),
    pre_scale: torch.Tensor | None = None,
    pre_shift: torch.Tensor | None = None,
    pre_act: Act = IDENTITY,
    residual: torch.Tensor | None = None,
    post: Act = IDENTITY,
    precision: str = "ieee",
    tile: choice.Tile | None = None,
) -> Launch:
    """One launch that computes every output of 1x1 convolutions sharing the input `x`."""
    stride_n, stride_h, stride_w, stride_c = strides4(x)
    batch, in_height, in_width, channels = x.shape
    height, width = (in_height - 1) // stride[0] + 1, (in_width - 1) // stride[1] + 1
    if not 1 <= len(outs) <= MAX_SEGMENTS:
        raise ValueError(f"{len(outs)} outputs, expected 1 to {MAX_SEGMENTS}")
    if len(acts) != len(outs):
        raise ValueError(f"{len(acts)} activations for {len(outs)} outputs")
    sizes = [out.shape[-1] for out in outs]
    for i, out in enumerate(outs):
        check_shape(out, (batch, height, width, sizes[i]), f"outs[{i}]")
        if out.dtype != outs[0].dtype:
            raise ValueError(f"outs[{i}] is {out.dtype}, outs[0] {outs[0].dtype}: one launch stores one type")
    check_contiguous(weight, (channels, sum(sizes)), "weight")
    check_vector(bias, sum(sizes), "bias")
    check_vector(pre_scale, channels, "pre_scale")
    check_vector(pre_shift, channels, "pre_shift")
    if residual is not None:
        if len(outs) > 1:
            raise ValueError("a residual needs a single output")
        check_shape(residual, tuple(outs[0].shape), "residual")
    distinct = {act for act in acts if act}
    if len(distinct) > 1:
        raise ValueError(f"the activations of one launch must be equal or identity, got {sorted(map(str, distinct))}")
    act = distinct.pop() if distinct else IDENTITY

    has_pre = pre_scale is not None or pre_shift is not None or bool(pre_act)
    plain = not has_pre and residual is None
    flat = stride == (1, 1) and flat_pixels(x)
    copies = flat and describable(x, (stride_w,)) and describable(weight, (sum(sizes),)) and x.dtype == weight.dtype
    target = target_of(x)
    pixels = height * width
    planned = choice.planned_batch(batch, target) * pixels
    chosen = tile or choice.gemm(planned, sizes, channels, weight.element_size(), target, plain=plain, tma=copies)
    tma = chosen.box is not None
    if tma and not copies:
        raise ValueError("a tile with a box needs x flat, and x and weight of one type on 16 bytes")
    rows, block_m, block_n, block_k = batch * pixels, chosen.block_m, chosen.block_n, chosen.block_k
    blocks = choice.cdiv(rows, block_m) * sum(choice.cdiv(size, block_n) for size in sizes)
    workspace = workspace_bytes(blocks, chosen.splits, block_m, block_n)
    padding = MAX_SEGMENTS - len(outs)
    pointers = [*outs, *[outs[0]] * padding]
    row_strides = [*(row_stride(out, f"outs[{i}]") for i, out in enumerate(outs)), *[0] * padding]
    sizes += [0] * padding
    residual_row = 0 if residual is None else row_stride(residual, "residual")
    columns = weight.shape[1]
    return Launch(
        "pointwise",
        _pointwise,
        (blocks, chosen.splits),
        {
            "x": Block(x, (rows, channels), (stride_w, 1), (block_m, block_k)) if tma else x,
            "weight": Block(weight, (channels, columns), (columns, 1), (block_k, block_n)) if tma else weight,
            "bias": bias,
            "pre_scale": pre_scale,
            "pre_shift": pre_shift,
            "residual": residual,
            **{f"out{i}": pointer for i, pointer in enumerate(pointers)},
            "workspace": unbound(workspace),
            "rows": rows,
            "width": width,
            "pixels": pixels,
            "channels": channels,
            "columns": columns,
            "splits": chosen.splits,
            "stride_n": stride_n,
            "stride_h": stride_h * stride[0],
            "stride_w": stride_w * stride[1],
            **{f"columns{i}": size for i, size in enumerate(sizes)},
            **{f"row{i}": row for i, row in enumerate(row_strides)},
            "residual_row": residual_row,
            "act_bits": sum(1 << i for i, segment_act in enumerate(acts) if segment_act),
            "pre_a": pre_act.a,
            "pre_b": pre_act.b,
            "act_a": act.a,
            "act_b": act.b,
            "post_a": post.a,
            "post_b": post.b,
        },
        {
            "STRIDE_C": stride_c,
            "TMA": tma,
            "FLAT": flat,
            "SEGMENTED": len(outs) > 1,
            "SPLIT": chosen.splits > 1,
            "PRE": activation(pre_act),
            "ACT": activation(act),
            "POST": activation(post),
            "HAS_PRE": has_pre,
            "PRECISION": precision,
            "ALIGN_K": alignment(channels, stride_n, stride_h, stride_w) if stride_c == 1 else 1,
            "ALIGN_N": alignment(*sizes, *row_strides, residual_row),
            "BLOCK_M": block_m,
            "BLOCK_N": block_n,
            "BLOCK_K": block_k,
            "GROUP_M": 8,
        },
        chosen.num_warps,
        chosen.num_stages,
        workspace,
    )


def pack(*weights: torch.Tensor) -> torch.Tensor:
    """ONNX weights [C_i, K, 1, 1] of sibling convolutions as one matrix [K, sum C_i]."""
    return torch.cat([weight.flatten(1) for weight in weights]).t().contiguous()


def reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    outs: Sequence[torch.Tensor],
    *,
    stride: tuple[int, int] = (1, 1),
    acts: Sequence[Act] = (IDENTITY,),
    pre_scale: torch.Tensor | None = None,
    pre_shift: torch.Tensor | None = None,
    pre_act: Act = IDENTITY,
    residual: torch.Tensor | None = None,
    post: Act = IDENTITY,
    precision: str = "ieee",
) -> list[torch.Tensor]:
    """The same in float64; of `outs` only the channel counts are read."""
    x = reference_prologue(x[:, :: stride[0], :: stride[1]], pre_scale, pre_shift, pre_act)
    sizes = [out.shape[-1] for out in outs]
    products = (x @ weight.double()).split(sizes, dim=-1)
    biases = [None] * len(sizes) if bias is None else bias.split(sizes)
    return [
        reference_epilogue(y, part, act, residual, post) for y, part, act in zip(products, biases, acts, strict=True)
    ]
