"""The launch of a kernel over the pixels of out [N, H, W, C], by blocks of pixels and channels. Bound by bytes.

`windowed` is that of a kernel that reduces a window channel by channel: depthwise convolution and pools.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optgraph.ir.values import Window
from optgraph.kernels.frame.arguments import Image, Output, Sliding, ours
from optgraph.kernels.frame.ends import Epilogue, Prologue
from optgraph.kernels.frame.launch import Launch, target_of
from optgraph.kernels.frame.operands import row_stride, strides4
from optgraph.kernels.frame.rows import alignment, positions, row_tile, strip_rows, unrolled
from optgraph.kernels.frame.tile import Tile, cdiv
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
) -> Launch:
    """A kernel of ours that takes `tensors` (x and out among them), image, `arguments` and size.

    strides: of other operands, which also decide how wide loads are. visited: positions, if not one for each pixel.
    """
    x, out = tensors["x"], tensors["out"]
    batch, height, width, channels = out.shape
    count = visited or batch * height * width
    tile = tile or row_tile(count, channels, x.element_size(), target_of(x), stages)
    image, size = Image.of(x), Output(count, height, width, channels, row_stride(out, "out"), channels)
    stride_c = strides4(x)[3]
    # What is one number for all channels is not loaded by eights.
    align = alignment(channels, *(image.strides if stride_c else ()), size.row, *strides)
    return Launch(
        kernel,
        ours(kernel),
        (cdiv(count, tile.block_m), cdiv(channels, tile.block_n)),
        {**tensors, "image": image, **arguments, "size": size},
        {"STRIDE_C": stride_c, **constants, "ALIGN": align, **tile.blocks()},
        tile,
        work,
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
    """The same for a window. A program computes a patch of strips, whose window reads overlap in L1."""
    x, (batch, height, width, channels) = tensors["x"], tensors["out"].shape
    after.check((batch, height, width, channels))
    target = target_of(x)
    # One stage: software pipelining would stage every tap's loads in shared memory.
    tile = tile or row_tile(batch * height * width, channels, x.element_size(), target, stages=1)
    strip = strip_rows(height, window.kernel[0], window.stride[0], tile.block_m, target)
    arguments = {"window": Sliding.of(window), "pre": before.argument(), "end": after.argument()}
    taps = {"KH": window.kernel[0], "KW": window.kernel[1], "UNROLL": unrolled(window.kernel[1]), "STRIP": strip}
    strides, visited = (after.residual_row,), positions(batch, height, width, strip)
    return rowwise(kernel, tensors, arguments, {**constants, **taps}, work, tile, strides=strides, visited=visited)
