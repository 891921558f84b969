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

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch

from optgraph.ir.quant import Quant
from optgraph.ir.values import IDENTITY, PRELU, RELU, Act, Window
from optgraph.kernels import pool
from optgraph.kernels.frame.arguments import Image, Output, Sliding, ours
from optgraph.kernels.frame.choice import choose
from optgraph.kernels.frame.ends import Epilogue, Prologue, check_floats
from optgraph.kernels.frame.gemm import Gemm, product_constants
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.launch import Launch, target_of
from optgraph.kernels.frame.operands import check_contiguous, check_window, strides4
from optgraph.kernels.frame.rows import patch_rows, unrolled
from optgraph.kernels.frame.sample import Sample, image, weight, window_sample
from optgraph.kernels.frame.tile import Tile, cdiv, planned_batch
from optgraph.kernels.frame.work import work_of


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
    channels, columns = x.shape[3], weight.shape[1]
    height, width = check_window(x, out, window, columns)
    check_contiguous(weight, (channels, columns), "weight")
    pool.check_prologue(before)
    check_floats(x=x, weight=weight)
    after.check(tuple(out.shape), out.dtype)

    target, item = target_of(x), weight.element_size()
    extent = (1, planned_batch(x.shape[0], target) * height * width, 1)
    # Not plain: with one block of columns, there are none to share a window.
    problem = Gemm(extent, (columns,), channels, item, depthwise=window.taps, plain=False, splittable=False)
    tile = tile or choose(problem, target)
    strip = patch_rows(height, width, window, tile.block_m, target)
    image, size, stride_c, (kh, kw) = Image.of(x), Output.of(out, channels, strip=strip), strides4(x)[3], window.kernel
    tensors = {"x": x, "weight": weight, "out": out, "image": image, "window": Sliding.of(window)}
    taps = {"STRIDE_C": stride_c, "KH": kh, "KW": kw, "UNROLL": unrolled(kw), "STRIP": strip}
    ends, program = (before, after), problem.program(tile, after.residual is not None, kh * kw // unrolled(kw))
    return Launch(
        "pooled_pointwise",
        ours("pooled_pointwise"),
        (cdiv(size.pixels, tile.block_m) * cdiv(columns, tile.block_n),),
        {**tensors, "pre": before.argument(), "end": after.argument(), "size": size},
        {
            **taps,
            **product_constants(x, out, channels, (columns, size.row, after.residual_row), precision, tile),
        },
        tile,
        work_of(x, out, window, {"weight": weight}, ends, program),
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
    p = pool.reference(x, weight, kind="max", window=window, before=before)
    return after.reference(p @ weight.double(), out)


def sample(shape: tuple[int, int, int, int], columns: int, window: Window, **arguments: Any) -> Sample:
    """A call on x of `shape` that makes `columns` channels; arguments as `window_sample` takes them."""
    return window_sample(shape, columns, window, weight=weight(shape[3], columns), precision="ieee", **arguments)


def samples() -> Iterator[tuple[str, Sample]]:
    """Odd sizes, windows of every kind, all ends."""
    small, around = Tile(32, 32, 32), Window((3, 3), pads=(1, 1, 1, 1))
    shapes = (1, 7, 9, 37), (3, 13, 5, 3), (2, 1, 1, 64), (1, 4, 33, 16)
    for shape, tile in product(shapes, [None, small, Tile(16, 64, 16)]):
        yield "odd sizes", sample(shape, 41, around, after=Epilogue(True, RELU), tile=tile)
    for (h, w), stride in product([(2, 2), (5, 5), (1, 3), (2, 11)], [(1, 1), (2, 2), (2, 1)]):
        window = Window((h, w), stride, (h - 1, w // 2, 0, w - 1))  # none without a pixel
        yield "kernels and strides", sample((2, 9, 11, 20), 24, window, after=Epilogue(), tile=small)
    yield "dilation", sample((3, 9, 11, 20), 24, Window((3, 3), (1, 1), (2, 3, 2, 3), (2, 3)), tile=small)
    for act in (RELU, Act("clip", 0.1, 0.5), Act("silu")):  # of -inf they are not -inf: padding must be masked after
        window, tile = Window((3, 3), pads=(2, 1, 0, 2)), Tile(64, 32, 16)
        yield "prologue", sample((1, 5, 7, 19), 21, window, before=Prologue(act=act), tile=tile)
    for act, residual in product([IDENTITY, Act("silu")], [None, True]):
        yield "epilogue", sample((1, 7, 9, 24), 21, around, after=Epilogue(True, act, residual, RELU))
    yield "slopes", sample((1, 7, 9, 24), 21, around, after=Epilogue(True, PRELU), tile=small)
    x, window = image(3, 9, 7, 20, planes=True), Window((3, 3), (2, 2), (0, 0, 1, 1))
    yield "planes", sample((3, 9, 7, 20), 16, window, x=x, tile=small)
    x = image(1, 6, 6, 20, dtype="float32")
    yield "float32 input", sample((1, 6, 6, 20), 9, Window((3, 3)), x=x, after=Epilogue())
    after = Epilogue(True, RELU, quants=(Quant(0.0625, -9),))
    yield "to int8", sample((1, 7, 9, 24), 21, around, after=after, tile=small, stored="int8")


POOLED_POINTWISE = Kernel(pooled_pointwise, reference, samples)
