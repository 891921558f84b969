"""The launch of a kernel over the pixels of out [N, H, W, C], by blocks of pixels and channels. Bound by bytes.

`windowed` is that of a kernel that reduces a window channel by channel: depthwise convolution and pools.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from optgraph.ir.values import Window
from optgraph.kernels.frame.arguments import Image, Output, Sliding, ours
from optgraph.kernels.frame.choice import choose
from optgraph.kernels.frame.ends import Epilogue, Prologue
from optgraph.kernels.frame.launch import Launch, target_of
from optgraph.kernels.frame.operands import row_stride, strides4
from optgraph.kernels.frame.rows import Windows, alignment, positions, row_tile, strip_rows
from optgraph.kernels.frame.tile import Problem, Tile, cdiv, planned_batch
from optgraph.kernels.frame.work import Work


def rowwise(
    kernel: str,
    tensors: Mapping[str, Any],
    arguments: Mapping[str, Any],
    constants: Mapping[str, Any],
    work: Work,
    tile: Tile | None,
    *,
    strides: tuple[int, ...] = (),
    stages: int = 3,
    visited: int = 0,
    problem: Problem | None = None,
) -> Launch:
    """A kernel of ours that takes `tensors` (x and out among them), image, `arguments` and size.

    strides: of other operands, which also decide how wide loads are. visited: positions, if not one for each pixel.
    problem: what the tile was chosen for, if there was a choice.
    """
    x, out = tensors["x"], tensors["out"]
    batch, height, width, channels = out.shape
    count = visited or batch * height * width
    tile = tile or row_tile(count, channels, x.element_size(), target_of(x), stages)
    image, size = Image.of(x), Output(count, height, width, channels, row_stride(out, "out"), channels)
    stride_c = strides4(x)[3]
    # What is one number for all channels is not loaded by eights.
    item = min(x.element_size(), out.element_size())
    align = alignment(channels, *(image.strides if stride_c else ()), size.row, *strides, itemsize=item)
    return Launch(
        kernel,
        ours(kernel),
        (cdiv(count, tile.block_m * constants.get("ROWS", 1)), cdiv(channels, tile.block_n)),
        {**tensors, "image": image, **arguments, "size": size},
        {"STRIDE_C": stride_c, **constants, "ALIGN": align, **tile.blocks()},
        tile,
        work,
        problem,
    )


def windowed(
    kernel: str,
    tensors: Mapping[str, Any],
    constants: Mapping[str, Any],
    window: Window,
    before: Prologue,
    after: Epilogue,
    work: Work,
    tile: Tile | None,
) -> Launch:
    """The same for a window. A program computes a patch of strips, whose window reads overlap in L1; or the rows of a
    strip one after another, so that what is in several windows is read once."""
    x, (batch, height, width, channels) = tensors["x"], tensors["out"].shape
    after.check((batch, height, width, channels), tensors["out"].dtype)
    target, (kh, kw), stride = target_of(x), window.kernel, window.stride[0]
    extent = planned_batch(batch, target), height, width
    dilated = window.dilation[0] > 1
    problem = Windows(kernel, extent, channels, window.kernel, stride, dilated, x.element_size())
    tile = tile or choose(problem, target)
    down, along = problem.unrolled
    if tile.rows > 1 and (down < kh or dilated):
        raise ValueError(f"{tile.rows} rows a program need a window of few taps and no dilation")
    strip = tile.rows if tile.rows > 1 else strip_rows(height, kh, stride, tile.block_m, target)
    arguments = {"window": Sliding.of(window), "pre": before.argument(), "end": after.argument()}
    taps = {"KH": kh, "KW": kw, "UNROLL_H": down, "UNROLL_W": along}
    walk = {"STRIDE_H": stride, "ROWS": tile.rows, "STRIP": strip}
    steps = window.taps // (down * along)
    work = replace(work, steps=steps, waits=steps + tile.rows - 2)  # where all is unrolled, loads go before their use
    strides, visited = (after.residual_row,), positions(batch, height, width, strip)
    constants = {**constants, **taps, **walk}
    return rowwise(kernel, tensors, arguments, constants, work, tile, strides=strides, visited=visited, problem=problem)
