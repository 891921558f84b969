# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""The classifier: a fully connected layer and a softmax, both on 2-D tensors [M, N].

    head:     y[m, n] = act(sum over k of x[m, k] * weight[k, n] + bias[n])       weight [K, N] (`pack`)
    softmax:  y[m, n] = exp(x[m, n] - max(x[m, :])) / sum over j of exp(x[m, j] - max(x[m, :]))

The last axis of outputs is contiguous; their rows may have a stride.

The layer is bound by reading the weight until the batch passes some 300 rows. At batch 1, narrow column blocks spread
that read over the SMs; a tl.dot with 15 of its 16 rows masked costs less than the read. The softmax of a row that fits
a block reads it once; a longer row is read three times (maximum, sum, result), the last two out of cache.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from optgraph.ir.values import IDENTITY, Act
from optgraph.kernels.frame.choice import Problem, Tile, cdiv, ceil_pow2, choose, planned_batch
from optgraph.kernels.frame.launch import Launch, target_of
from optgraph.kernels.frame.operands import check_contiguous, check_shape, check_vector
from optgraph.kernels.jit.activations import activation, apply
from optgraph.kernels.jit.addressing import aligned, alignment
from optgraph.kernels.jit.epilogue import multiplicand

_SMALL_BATCH = 16
_ROW_BLOCK = 4096  # the longest softmax row kept in registers


# fmt: off
@triton.jit
def _head(
    x, weight, bias, out, rows, columns, channels,  # M, N, K
    x_row, X_K: tl.constexpr, out_row, act_a, act_b,
    ACT: tl.constexpr, PRECISION: tl.constexpr, ALIGN_K: tl.constexpr, ALIGN_N: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):
    columns = aligned(columns, ALIGN_N)
    m = (tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)  # [BLOCK_M]
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)  # [BLOCK_N]
    k = tl.arange(0, BLOCK_K)
    m_mask = m < rows
    n_mask = n < columns
    x_block = x + (m * aligned(x_row, ALIGN_K))[:, None] + (k * X_K)[None, :]  # [BLOCK_M, BLOCK_K]
    weight_block = weight + (k * columns)[:, None] + n[None, :]  # [BLOCK_K, BLOCK_N]
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for base in range(0, channels, BLOCK_K):
        k_mask = k < aligned(channels, ALIGN_K) - base
        a = tl.load(x_block, m_mask[:, None] & k_mask[None, :], other=0.0)
        w = tl.load(weight_block, k_mask[:, None] & n_mask[None, :], other=0.0)
        acc = tl.dot(multiplicand(a.to(w.dtype), PRECISION), w, acc, input_precision=PRECISION)
        x_block += BLOCK_K * X_K
        weight_block += BLOCK_K * columns
    if bias is not None:
        acc += tl.load(bias + n, n_mask, other=0.0)[None, :]
    acc = ACT(acc, act_a, act_b)
    out_block = out + (m * aligned(out_row, ALIGN_N))[:, None] + n[None, :]
    tl.store(out_block, acc.to(out.dtype.element_ty), m_mask[:, None] & n_mask[None, :])


@triton.jit
def _softmax(
    x, out, rows, columns, x_row, X_COLUMN: tl.constexpr, out_row,  # M, N
    ONE_BLOCK: tl.constexpr, ALIGN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    columns = aligned(columns, ALIGN)
    m = (tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)  # [BLOCK_M]
    m_mask = (m < rows)[:, None]
    # Rows past the end repeat the last one: a row of nothing but -inf would be NaN.
    x_rows = x + (tl.minimum(m, rows - 1) * aligned(x_row, ALIGN))[:, None]
    out_rows = out + (m * aligned(out_row, ALIGN))[:, None]
    n = tl.arange(0, BLOCK_N)[None, :]
    # A maximum that ignores NaN is safe: the NaN itself then reaches the sum, and with it the whole row.
    if ONE_BLOCK:
        mask = n < columns  # [1, BLOCK_N]
        y = tl.load(x_rows + n * X_COLUMN, mask, other=float("-inf")).to(tl.float32)
        y = tl.exp(y - tl.max(y, axis=1)[:, None])
        tl.store(out_rows + n, (y / tl.sum(y, axis=1)[:, None]).to(out.dtype.element_ty), m_mask & mask)
    else:
        block_top = tl.full((BLOCK_M, BLOCK_N), float("-inf"), dtype=tl.float32)
        for start in range(0, columns, BLOCK_N):
            mask = n < columns - start
            y = tl.load(x_rows + (start + n) * X_COLUMN, mask, other=float("-inf"))
            block_top = tl.maximum(block_top, y.to(tl.float32))
        top = tl.max(block_top, axis=1)[:, None]
        block_sum = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for start in range(0, columns, BLOCK_N):
            mask = n < columns - start
            y = tl.load(x_rows + (start + n) * X_COLUMN, mask, other=float("-inf"))
            block_sum += tl.exp(y.to(tl.float32) - top)
        scale = 1.0 / tl.sum(block_sum, axis=1)[:, None]
        for start in range(0, columns, BLOCK_N):
            mask = n < columns - start
            y = tl.load(x_rows + (start + n) * X_COLUMN, mask, other=float("-inf"))
            y = tl.exp(y.to(tl.float32) - top) * scale
            tl.store(out_rows + start + n, y.to(out.dtype.element_ty), m_mask & mask)
# fmt: on


def head(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    *,
    act: Act = IDENTITY,
    precision: str = "ieee",
    tile: Tile | None = None,
) -> Launch:
    """One launch of a fully connected layer."""
    x_row, x_k = _strides2(x, "x")
    rows, channels = x.shape
    if weight.dim() != 2:
        raise ValueError(f"weight has shape {tuple(weight.shape)}, expected [K, N]")
    columns = weight.shape[1]
    check_contiguous(weight, (channels, columns), "weight")
    check_vector(bias, columns, "bias")
    check_shape(out, (rows, columns), "out")
    out_row = _row_stride2(out, "out")
    tile = tile or head_tile(rows, columns, channels, weight.element_size(), target_of(x))
    return Launch(
        "head",
        _head,
        (cdiv(columns, tile.block_n), cdiv(rows, tile.block_m)),
        {
            "x": x,
            "weight": weight,
            "bias": bias,
            "out": out,
            "rows": rows,
            "columns": columns,
            "channels": channels,
            "x_row": x_row,
            "out_row": out_row,
            "act_a": act.a,
            "act_b": act.b,
        },
        {
            "X_K": x_k,
            "ACT": activation(act),
            "PRECISION": precision,
            "ALIGN_K": alignment(channels, x_row),
            "ALIGN_N": alignment(columns, out_row),
            "BLOCK_M": tile.block_m,
            "BLOCK_N": tile.block_n,
            "BLOCK_K": tile.block_k,
        },
        tile.num_warps,
        tile.num_stages,
    )


def head_tile(rows: int, columns: int, channels: int, itemsize: int, target: str) -> Tile:
    """A small batch only waits for the weight: narrow column blocks, deep reads. A large one is a plain GEMM."""
    rows = planned_batch(rows, target)
    if target == "interpret" or rows > _SMALL_BATCH:
        return choose(Problem((1, rows, 1), (columns,), channels, itemsize, splittable=False), target)
    return Tile(16, 16, 512 // itemsize, num_warps=4, num_stages=4)


def pack(weight: torch.Tensor, image: tuple[int, int, int] | None = None) -> torch.Tensor:
    """ONNX weight [N, K] (a Gemm with transB) as [K, N].

    image: (C, H, W) where a row of x is an image; K then counts in the order H, W, C in which images lie in memory.
    """
    if image is not None:
        weight = weight.reshape(-1, *image).permute(0, 2, 3, 1).flatten(1)
    return weight.t().contiguous()


def softmax(x: torch.Tensor, out: torch.Tensor, tile: Tile | None = None) -> Launch:
    """One launch of a softmax over the last axis."""
    x_row, x_column = _strides2(x, "x")
    rows, columns = x.shape
    check_shape(out, (rows, columns), "out")
    out_row = _row_stride2(out, "out")
    tile = tile or softmax_tile(rows, columns, target_of(x))
    return Launch(
        "softmax",
        _softmax,
        (cdiv(rows, tile.block_m),),
        {
            "x": x,
            "out": out,
            "rows": rows,
            "columns": columns,
            "x_row": x_row,
            "out_row": out_row,
        },
        {
            "X_COLUMN": x_column,
            "ONE_BLOCK": columns <= tile.block_n,
            "ALIGN": alignment(columns, x_row, out_row),
            "BLOCK_M": tile.block_m,
            "BLOCK_N": tile.block_n,
        },
        tile.num_warps,
        1,
    )


def softmax_tile(rows: int, columns: int, target: str) -> Tile:
    """One row a program on a GPU; as many as fit a block in the interpreter."""
    block_n = min(ceil_pow2(columns), _ROW_BLOCK)
    if target == "interpret":
        return Tile(min(ceil_pow2(rows), 2**18 // block_n), block_n)
    return Tile(1, block_n, num_warps=4 if block_n <= 1024 else 8)


def _strides2(t: torch.Tensor, name: str) -> tuple[int, int]:
    """Strides of [M, N], as if contiguous where an axis of one element makes them meaningless."""
    if t.dim() != 2:
        raise ValueError(f"{name} has shape {tuple(t.shape)}, expected 2 dimensions")
    row, column = t.stride()
    return row if t.shape[0] > 1 else t.shape[1], column if t.shape[1] > 1 else 1


def _row_stride2(t: torch.Tensor, name: str) -> int:
    row, column = _strides2(t, name)
    if column != 1 or (t.shape[0] > 1 and row < t.shape[1]):
        raise ValueError(f"{name} needs a contiguous last axis, got {tuple(t.shape)} strides {t.stride()}")
    return row


def reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    *,
    act: Act = IDENTITY,
    precision: str = "ieee",
) -> torch.Tensor:
    """`head` in float64; `out` is not read."""
    y = x.double() @ weight.double()
    return apply(y if bias is None else y + bias.double(), act)


def softmax_reference(x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """`softmax` in float64; `out` is not read."""
    return x.double().softmax(-1)
