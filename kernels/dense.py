"""A fully connected layer on 2-D tensors: out[m, n] = grid(act(sum over k of x[m, k] * weight[k, n] + bias[n])).

x [M, K] with any strides, weight [K, N] contiguous (`pack`), of int8 [N, K] (`pack_integers`); the last axis of
out [M, N] is contiguous. See `frame/ends.py` for int8.

Bound by reading the weight until the batch passes some 300 rows. At batch 1, narrow column blocks spread that read over
the SMs; a tl.dot with 15 of its 16 rows masked costs less than the read.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch

from optgraph.base.devices import Target
from optgraph.ir.quant import Quant
from optgraph.ir.values import IDENTITY, PRELU, RELU, Act
from optgraph.kernels.frame.arguments import ours
from optgraph.kernels.frame.choice import choose
from optgraph.kernels.frame.ends import Epilogue, Prologue, check_operands
from optgraph.kernels.frame.gemm import Gemm
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.launch import Launch, target_of
from optgraph.kernels.frame.operands import check_contiguous, check_shape, row_stride2, strides2
from optgraph.kernels.frame.rows import alignment
from optgraph.kernels.frame.sample import STORED, Sample, image, vector, weight
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
    quants: tuple[Quant, ...] = (),
    start: torch.Tensor | None = None,
    scale: torch.Tensor | None = None,
    before: Prologue = Prologue(),
    precision: str = "ieee",
    tile: Tile | None = None,
) -> Launch:
    """One launch of a fully connected layer. slope: float32 [N], if `act` is a PRelu. quants, start, scale: as those of
    an `Epilogue`. before: has the grid of an int8 x, and nothing else."""
    end = Epilogue(bias, act, slope=slope, quants=quants, start=start, scale=scale)
    integers = check_operands(x, weight, before, end)
    if before.affine or before.act:
        raise ValueError("a dense layer takes a grid before it, and no scale, shift or activation")
    pre = Prologue() if integers else before
    x_row, stride_k = strides2(x, "x")
    rows, channels = x.shape
    if weight.dim() != 2:
        raise ValueError(f"weight has shape {tuple(weight.shape)}, expected [K, N]")
    columns, item = weight.shape[0 if integers else 1], weight.element_size()
    check_contiguous(weight, (columns, channels) if integers else (channels, columns), "weight")
    check_shape(out, (rows, columns), "out")
    end.check((rows, columns), out.dtype)
    out_row, target = row_stride2(out, "out"), target_of(x)
    problem = gemm_problem(rows, columns, channels, item, target)
    if tile is None:
        # A small batch only waits for the weight: narrow column blocks, deep reads. A large one is a plain GEMM.
        tile = choose(problem, target) if problem else Tile(16, 16, 512 // item, 4, 4)
    gemm = problem or Gemm((1, rows, 1), (columns,), channels, item, splittable=False)
    tensors = {"x": x, "weight": weight, "out": out, "pre": pre.argument(), "end": end.argument()}
    numbers = {"rows": rows, "columns": columns, "channels": channels, "x_row": x_row, "out_row": out_row}
    return Launch(
        "dense",
        ours("dense"),
        (cdiv(columns, tile.block_n), cdiv(rows, tile.block_m)),
        {**tensors, **numbers},
        {
            "STRIDE_K": stride_k,
            "INTEGERS": integers,
            "PRECISION": precision,
            "ALIGN_K": alignment(channels, x_row, itemsize=x.element_size()),
            "ALIGN_N": alignment(columns, out_row, itemsize=out.element_size()),
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


def pack_integers(weight: torch.Tensor, image: tuple[int, int, int] | None = None) -> torch.Tensor:
    """Of int8, as [N, K]; `image` as in `pack`."""
    return pack(weight, image).t().contiguous()


def reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    act: Act = IDENTITY,
    slope: torch.Tensor | None = None,
    quants: tuple[Quant, ...] = (),
    start: torch.Tensor | None = None,
    scale: torch.Tensor | None = None,
    before: Prologue = Prologue(),
    precision: str = "ieee",
) -> torch.Tensor:
    """The same in float64; of `out`, only the type is read."""
    matrix = weight.double()
    y = x.double() @ matrix.t() if weight.dtype == torch.int8 else before.reference(x) @ matrix
    return Epilogue(bias, act, slope=slope, quants=quants, start=start, scale=scale).reference(y, out)


def samples() -> Iterator[tuple[str, Sample]]:
    """Odd sizes, and inputs of every kind."""
    sizes = (1, 10, 64), (3, 73, 37), (37, 5, 130), (1, 1, 1), (17, 33, 3)
    for (m, n, k), tile, bias in product(sizes, [None, Tile(16, 16, 32), Tile(32, 64, 16)], [False, True]):
        act = RELU if n > 1 else IDENTITY
        yield "odd sizes", sample(image(m, k, beside=2), n, bias=bias, act=act, tile=tile)
    yield "slopes", sample(image(3, 37), 73, bias=True, act=PRELU)
    yield "transposed", sample(image(40, 3).permute(1, 0), 7, tile=Tile(16, 16, 16))
    yield "float32 input", sample(image(2, 20, dtype="float32"), 7)
    grids: dict[str, Any] = {"quants": (Quant(300.0, -9),), "stored": "int8"}
    for (m, n, k), tile in product(((1, 10, 64), (37, 73, 130), (3, 5, 37)), [None, Tile(16, 16, 32)]):
        x = image(m, k, dtype="int8", beside=2)
        yield "integers", sample(x, n, integers=True, bias=True, act=RELU, tile=tile, **grids)
    yield "integers to numbers", sample(image(3, 37, dtype="int8"), 10, integers=True, bias=True)
    before = Prologue(quant=Quant(0.0625, -7))
    yield "int8 and a float weight", sample(image(3, 37, dtype="int8"), 10, bias=True, before=before)


def sample(
    x: View, columns: int, *, bias: bool = False, integers: bool = False, stored: str = STORED, **arguments: Any
) -> Sample:
    """A call on `x`. integers: it and the weight are int8. stored: the type of the output."""
    rows, channels = x.shape
    out = image(rows, columns, dtype=stored, beside=16 if stored == "int8" else 8)
    matrix = weight(channels, columns)
    if integers:
        matrix = weight(columns, channels, dtype="int8")
        arguments |= {"start": weight(columns, dtype="int32"), "scale": vector(columns)}
    operands = {"x": x, "weight": matrix, "out": out, "bias": vector(columns) if bias else None}
    slope = vector(columns) if arguments.get("act", IDENTITY).sloped else None
    return Sample({**operands, "slope": slope, **arguments, "precision": "ieee"})


DENSE = Kernel(dense, reference, samples)
