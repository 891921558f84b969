"""The launch of a kernel that reduces a window channel by channel: depthwise convolution and pools, bound by bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optgraph.ir.values import Window
from optgraph.kernels.frame.arguments import Image, Jit, Sliding
from optgraph.kernels.frame.ends import Epilogue, Prologue
from optgraph.kernels.frame.launch import Launch, target_of
from optgraph.kernels.frame.operands import row_stride, strides4
from optgraph.kernels.frame.rows import alignment, positions, row_tile, strip_rows, unrolled
from optgraph.kernels.frame.tile import Tile, cdiv
from optgraph.kernels.frame.work import Work


def windowed(
    kernel: str,
    code: Jit,
    tensors: Mapping[str, Any],
    constants: Mapping[str, Any],
    window: Window,
    before: Prologue,
    after: Epilogue,
    work: Work,
    tile: Tile | None,
) -> Launch:
    """One launch over out [N, Ho, Wo, C], a patch of pixels by a block of channels a program.

    tensors: x, out and whatever else the kernel takes first, in its order. constants: those after STRIDE_C.
    """
    x, out = tensors["x"], tensors["out"]
    batch, height, width, channels = out.shape
    after.check(tuple(out.shape))
    target = target_of(x)
    # One stage: software pipelining would stage every tap's loads in shared memory.
    tile = tile or row_tile(batch * height * width, channels, x.element_size(), target, stages=1)
    strip = strip_rows(height, window.kernel[0], window.stride[0], tile.block_m, target)
    count = positions(batch, height, width, strip)
    image, out_row = Image.of(x), row_stride(out, "out")
    return Launch(
        kernel,
        code,
        (cdiv(count, tile.block_m), cdiv(channels, tile.block_n)),
        {
            **tensors,
            "image": image,
            "window": Sliding.of(window),
            "pre": before.argument(),
            "end": after.argument(),
            "positions": count,
            "out_height": height,
            "out_width": width,
            "channels": channels,
            "out_row": out_row,
        },
        {
            "STRIDE_C": strides4(x)[3],
            **constants,
            "KH": window.kernel[0],
            "KW": window.kernel[1],
            "UNROLL": unrolled(window.kernel[1]),
            "STRIP": strip,
            "ALIGN": alignment(channels, *image.strides, out_row, after.residual_row),
            **tile.blocks(),
        },
        tile,
        work,
    )
