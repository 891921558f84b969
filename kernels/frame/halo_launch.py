"""Launches of the warp-specialised variant of `conv2d` for sm_90, whose taps read shared memory.

For one group, 16 bits or int8, a stride of 1 or 2, no dilation and no prologue, and what the copy engine can read; see
`jit/conv2d_specialised.py`. Bound: tensor cores, and what an SM gets out of L2. Plain tiles fetch a pixel once for each
tap; here the taps along one axis share it, and tiles of up to 49,152 accumulators, for which no plain kernel has the
registers, share the weights.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from optgraph.ir.values import Window
from optgraph.kernels.frame import halos
from optgraph.kernels.frame.arguments import Output, Sliding, ours
from optgraph.kernels.frame.ends import Epilogue
from optgraph.kernels.frame.gemm import Gemm
from optgraph.kernels.frame.halos import Halo
from optgraph.kernels.frame.launch import Launch, describable
from optgraph.kernels.frame.operands import row_stride
from optgraph.kernels.frame.rows import alignment
from optgraph.kernels.frame.starts import Kinds
from optgraph.kernels.frame.tile import Box, Tile
from optgraph.kernels.frame.variant import Block
from optgraph.kernels.frame.work import work_of


def halo_of(x: torch.Tensor, weight: torch.Tensor, window: Window, extent: Box) -> Halo | None:
    """What its tiles depend on; None where plain ones alone do. extent: the output, as (images, rows, columns)."""
    halo = Halo(extent, window.kernel, window.stride)
    if weight.shape[0] > 1 or window.dilation != (1, 1) or x.dtype != weight.dtype or x.stride(3) != 1:
        return None
    fetched = describable(x, x.stride()[:3]) and describable(weight, (_matrix(weight).shape[1],))
    return halo if fetched and weight.element_size() <= 2 and halo.shareable else None


def _matrix(weight: torch.Tensor) -> torch.Tensor:
    """As it lies: of int8 [columns, depth], else [depth, columns]."""
    return weight[0].flatten(1) if weight.dtype == torch.int8 else weight[0].flatten(0, 2)


def specialised(
    x: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor,
    window: Window,
    after: Epilogue,
    tile: Tile,
    problem: Gemm,
    kinds: Kinds,
    otherwise: Callable[[], Launch],
) -> Launch:
    """The launch with `tile`, one of `halos.tiles`."""
    matrix, integers = _matrix(weight), weight.dtype == torch.int8
    channels, columns = problem.k, problem.n[0]
    halo = Halo((out.shape[0], out.shape[1], out.shape[2]), window.kernel, window.stride)
    assert tile.box
    panel = (halos.PANEL, tile.block_k) if integers else (tile.block_k, halos.PANEL)
    operands = {
        "x": Block(x, tuple(x.shape), x.stride(), (*tile.box, tile.block_k)),
        "weight": Block(weight, tuple(matrix.shape), matrix.stride(), panel),
    }
    arguments = {"out": out, "window": Sliding.of(window), "end": after.argument(), "size": Output.of(out, channels)}
    known = {
        "ALIGN_N": alignment(columns, row_stride(out, "out"), after.residual_row, itemsize=out.element_size()),
        "KINDS": after.start is not None and after.start.dim() > 1,
    }
    return Launch(
        "conv2d",
        ours("conv2d_specialised"),
        (halos.programs(halo, tile, columns),),
        {**operands, **arguments, "kinds": kinds if known["KINDS"] else None},
        {**known, **halos.constants(halo, tile, weight.element_size())},
        tile,
        work_of(x, out, window, {"weight": weight}, (after,), problem.program(tile, after.residual is not None)),
        problem,
        0,
        otherwise,
    )
