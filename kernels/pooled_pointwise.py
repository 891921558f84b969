"""Max pool feeding a 1x1 convolution: the tensor between them is never in memory.

    p[m, c]   = max_{r,s} pre_act(x[n, oh*sh - top + r*dh, ow*sw - left + s*dw, c])               m = (n, oh, ow)
    out[m, :] = post(act(p[m, :] @ weight + bias) + residual[m, :])

x is [N, H, W, C] with any strides, weight [C, Cout] (`pointwise.pack`), contiguous; out and residual dense pixels.
Positions outside x are -inf, the prologue notwithstanding; a NaN in a window is a NaN out. p is rounded to the
weight's type, as if it had been stored.

Bound: bytes. Programs repeat the window for every block of columns, so it is for products that one block can hold.
As in `separable`, the window is reduced in registers, and the loops have one stage: software pipelining would stage
every shifted load in shared memory. The taps of one window row, unrolled, are the loads in flight.
"""

from __future__ import annotations

import torch

from optgraph.ir.values import Window
from optgraph.kernels import pool
from optgraph.kernels.frame.arguments import Image, Sliding, ours
from optgraph.kernels.frame.choice import choose
from optgraph.kernels.frame.ends import Epilogue, Prologue
from optgraph.kernels.frame.gemm import Gemm
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.launch import Launch, target_of
from optgraph.kernels.frame.operands import check_contiguous, check_window, row_stride, strides4
from optgraph.kernels.frame.rows import alignment, patch_rows, positions, unrolled
from optgraph.kernels.frame.tile import Tile, cdiv, planned_batch
from optgraph.kernels.frame.work import Read, Work


def pooled_pointwise(
    x: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor,
    *,
    window: Window,
    before: Prologue = Prologue(),
    after: Epilogue = Epilogue(),
    precision: str = "ieee",
    tile: Tile | None = None,
) -> Launch:
    """One launch of a max pool and a 1x1 convolution. Raises ValueError for a prologue of more than an activation."""
    if weight.dim() != 2:
        raise ValueError(f"weight has shape {tuple(weight.shape)}, expected 2-D")
    columns = weight.shape[1]
    height, width = check_window(x, out, window, columns)
    batch, channels = x.shape[0], x.shape[3]
    check_contiguous(weight, (channels, columns), "weight")
    pool.check_prologue(before)
    after.check(tuple(out.shape))

    target = target_of(x)
    problem = Gemm(
        (1, planned_batch(batch, target) * height * width, 1),
        (columns,),
        channels,
        weight.element_size(),
        depthwise=window.taps,
        plain=False,  # with one block of columns, there are none to share a window
        splittable=False,
    )
    tile = tile or choose(problem, target)
    strip = patch_rows(height, width, window, tile.block_m, target)
    count = positions(batch, height, width, strip)
    image, stride_c, out_row = Image.of(x), strides4(x)[3], row_stride(out, "out")
    return Launch(
        "pooled_pointwise",
        ours("pooled_pointwise"),
        (cdiv(count, tile.block_m) * cdiv(columns, tile.block_n),),
        {
            "x": x,
            "weight": weight,
            "out": out,
            "image": image,
            "window": Sliding.of(window),
            "pre": before.argument(),
            "end": after.argument(),
            "positions": count,
            "out_height": height,
            "out_width": width,
            "channels": channels,
            "columns": columns,
            "out_row": out_row,
        },
        {
            "STRIDE_C": stride_c,
            "KH": window.kernel[0],
            "KW": window.kernel[1],
            "UNROLL": unrolled(window.kernel[1]),
            "STRIP": strip,
            "PRECISION": precision,
            "ALIGN_K": alignment(channels, *image.strides) if stride_c == 1 else 1,
            "ALIGN_N": alignment(columns, out_row, after.residual_row),
            **tile.blocks("MNK"),
        },
        tile,
        Work(
            (Read(x, window, (height, width)), *after.reads),
            (out,),
            {"weight": weight, **after.vectors},
            problem.program(tile, after.residual is not None),
        ),
        problem,
    )


def reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor,
    *,
    window: Window,
    before: Prologue = Prologue(),
    after: Epilogue = Epilogue(),
    precision: str = "ieee",
) -> torch.Tensor:
    """The same in float64; `out` is not read."""
    p = pool.reference(x, out, kind="max", window=window, before=before)
    return after.reference(p @ weight.double())


POOLED_POINTWISE = Kernel(pooled_pointwise, reference)
