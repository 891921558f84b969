"""A fully connected layer on 2-D tensors: out[m, n] = act(sum over k of x[m, k] * weight[k, n] + bias[n]).

x [M, K] with any strides, weight [K, N] contiguous (`pack`); the last axis of out [M, N] is contiguous.

Bound by reading the weight until the batch passes some 300 rows. At batch 1, narrow column blocks spread that read over
the SMs; a tl.dot with 15 of its 16 rows masked costs less than the read.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch

from optgraph.base.devices import Target
from optgraph.ir.values import IDENTITY, PRELU, RELU, Act
from optgraph.kernels.frame.arguments import ours
from optgraph.kernels.frame.choice import choose
from optgraph.kernels.frame.ends import Epilogue
from optgraph.kernels.frame.gemm import Gemm
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.launch import Launch, target_of
from optgraph.kernels.frame.operands import check_contiguous, check_shape, row_stride2, strides2
from optgraph.kernels.frame.rows import alignment
from optgraph.kernels.frame.sample import Sample, image, vector, weight
from optgraph.kernels.frame.tile import Tile, cdiv, planned_batch
from optgraph.kernels.frame.view import View
from optgraph.kernels.frame.work import Read, Work

_SMALL_BATCH = 16


def dense(
    x: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    act: Act = IDENTITY,
    slope: torch.Tensor | None = None,
    precision: str = "ieee",
    tile: Tile | None = None,
) -> Launch:
    """One launch of a fully connected layer. slope: float32 [N], if `act` is a PRelu."""
    end = Epilogue(bias, act, slope=slope)
    x_row, stride_k = strides2(x, "x")
    rows, channels = x.shape
    if weight.dim() != 2:
        raise ValueError(f"weight has shape {tuple(weight.shape)}, expected [K, N]")
    columns, item = weight.shape[1], weight.element_size()
    check_contiguous(weight, (channels, columns), "weight")
    check_shape(out, (rows, columns), "out")
    end.check((rows, columns), out.dtype)
    out_row, target = row_stride2(out, "out"), target_of(x)
    problem = gemm_problem(rows, columns, channels, item, target)
    if tile is None:
        # A small batch only waits for the weight: narrow column blocks, deep reads. A large one is a plain GEMM.
        tile = choose(problem, target) if problem else Tile(16, 16, 512 // item, 4, 4)
    gemm = problem or Gemm((1, rows, 1), (columns,), channels, item, splittable=False)
    tensors = {"x": x, "weight": weight, "out": out, "end": end.argument()}
    numbers = {"rows": rows, "columns": columns, "channels": channels, "x_row": x_row, "out_row": out_row}
    return Launch(
        "dense",
        ours("dense"),
        (cdiv(columns, tile.block_n), cdiv(rows, tile.block_m)),
        {**tensors, **numbers},
        {
            "STRIDE_K": stride_k,
            "PRECISION": precision,
            "ALIGN_K": alignment(channels, x_row),
            "ALIGN_N": alignment(columns, out_row),
            **tile.blocks("MNK"),
        },
        tile,
        Work((Read(x),), (out,), {"weight": weight, **end.vectors}, gemm.program(tile, residual=False)),
        problem,
    )


def gemm_problem(rows: int, columns: int, channels: int, itemsize: int, target: Target) -> Gemm | None:
    """What the tile is chosen for; None for a small batch on a GPU, which has no choice."""
    rows = planned_batch(rows, target)
    if not target.interpreted and rows <= _SMALL_BATCH:
        return None
    return Gemm((1, rows, 1), (columns,), channels, itemsize, splittable=False)


def pack(weight: torch.Tensor, image: tuple[int, int, int] | None = None) -> torch.Tensor:
    """ONNX weight [N, K] (a Gemm with transB) as [K, N].

    image: (C, H, W) where a row of x is an image; K then counts in the order H, W, C in which images lie in memory.
    """
    if image is not None:
        weight = weight.reshape(-1, *image).permute(0, 2, 3, 1).flatten(1)
    return weight.t().contiguous()


def reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    act: Act = IDENTITY,
    slope: torch.Tensor | None = None,
    precision: str = "ieee",
) -> torch.Tensor:
    """The same in float64; `out` is not read."""
    return Epilogue(bias, act, slope=slope).reference(x.double() @ weight.double(), out)


def samples() -> Iterator[tuple[str, Sample]]:
    """Odd sizes, and inputs of every kind."""
    sizes = (1, 10, 64), (3, 73, 37), (37, 5, 130), (1, 1, 1), (17, 33, 3)
    for (m, n, k), tile, bias in product(sizes, [None, Tile(16, 16, 32), Tile(32, 64, 16)], [False, True]):
        act = RELU if n > 1 else IDENTITY
        yield "odd sizes", sample(image(m, k, beside=2), n, bias=bias, act=act, tile=tile)
    yield "slopes", sample(image(3, 37), 73, bias=True, act=PRELU)
    yield "transposed", sample(image(40, 3).permute(1, 0), 7, tile=Tile(16, 16, 16))
    yield "float32 input", sample(image(2, 20, dtype="float32"), 7)


def sample(x: View, columns: int, *, bias: bool = False, **arguments: Any) -> Sample:
    """A call on `x`."""
    rows, channels = x.shape
    out = image(rows, columns, beside=8)
    operands = {"x": x, "weight": weight(channels, columns), "out": out, "bias": vector(columns) if bias else None}
    slope = vector(columns) if arguments.get("act", IDENTITY).sloped else None
    return Sample({**operands, "slope": slope, **arguments, "precision": "ieee"})


DENSE = Kernel(dense, reference, samples)
