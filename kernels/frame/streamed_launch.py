"""Launches of the convolution whose blocks are all under way at once, for sm_90 and 16 bits; see
`jit/conv2d_streamed.py`. Bound: the chain of one program, which has no more steps than stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from optgraph.kernels.frame import streamed
from optgraph.kernels.frame.arguments import ours
from optgraph.kernels.frame.ends import Epilogue
from optgraph.kernels.frame.gemm import Gemm
from optgraph.kernels.frame.launch import Launch
from optgraph.kernels.frame.rows import alignment
from optgraph.kernels.frame.split import MAX_TILES, unbound, workspace_bytes
from optgraph.kernels.frame.streamed import Place
from optgraph.kernels.frame.tile import Tile, blocks_along, cdiv
from optgraph.kernels.frame.variant import Block
from optgraph.kernels.frame.work import Work


def streamed_launch(
    kernel: str,
    x: Block,
    weight: Block,
    place: Place | None,
    segments: Mapping[str, Any],
    after: Epilogue,
    tile: Tile,
    work: Work,
    problem: Gemm,
    otherwise: Callable[[], Launch],
) -> Launch:
    """The launch with `tile`, one of `streamed.tiles`; or another, where there are too many pixels for it. x: whose
    block is the tile's box. segments:
    outputs, their columns and row strides, and which have the activation, as `pointwise` has them."""
    sizes: Sequence[int] = [size for size in segments["sizes"] if size]
    columns = sum(cdiv(size, tile.block_n) for size in sizes)
    assert tile.box
    if place is None or (rows := blocks_along(place[:3], tile.box)) * columns > MAX_TILES:
        return otherwise()
    if place.steps > tile.splits * tile.num_stages:
        raise ValueError(f"{place.steps} steps of the depth do not fit {tile.splits} times {tile.num_stages} stages")
    workspace = workspace_bytes(rows * columns, tile.splits, tile.block_m, tile.block_n)
    x = replace(x, block=(1, 1, tile.block_m, tile.block_k), fetched=x.block)
    operands = {"x": x, "weight": weight, "workspace": unbound(workspace), "place": place, "end": after.argument()}
    constants = {
        "TAPS": 1 if place.steps == place.blocks else 2,  # or more
        "SEGMENTED": len(sizes) > 1,
        "SPLITS": tile.splits,
        "ALIGN_N": alignment(
            *sizes, *segments["out_rows"], after.residual_row, itemsize=segments["outs"][0].element_size()
        ),
        **{f"BOX{axis}": size for axis, size in enumerate(tile.box)},
        **tile.blocks("MNK"),
        "STAGES": tile.num_stages,
    }
    return Launch(
        kernel,
        ours("conv2d_streamed"),
        (rows, columns, tile.splits),
        {**operands, **segments},
        constants,
        tile,
        replace(work, program=streamed.program(tile, after.residual is not None)),
        problem,
        workspace,
        otherwise,
    )
