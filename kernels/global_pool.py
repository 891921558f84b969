"""Max and average pooling over whole images.

    out = grid(act(pool(pre_act(x * pre_scale + pre_shift))))

[N, H, W, C] becomes [N, 1, 1, C]. Programs split (n, channel blocks) finely, because one image of 8x8x2048 has to
occupy the whole GPU. x with any strides, out dense pixels: a concat slice is fine.

Bound by bytes. A NaN in an image is a NaN out, also of a maximum.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch

from optgraph.base.devices import Target
from optgraph.ir.quant import Quant
from optgraph.ir.values import IDENTITY, RELU, Act
from optgraph.kernels.frame.arguments import Grids, Image, Scalar, ours
from optgraph.kernels.frame.ends import Prologue, check_grid, check_grids, on_grids
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.launch import Launch, target_of
from optgraph.kernels.frame.operands import check_shape, row_stride, strides4
from optgraph.kernels.frame.rows import alignment
from optgraph.kernels.frame.sample import Sample, image, prologue
from optgraph.kernels.frame.tile import Tile, cdiv, ceil_pow2, planned_batch
from optgraph.kernels.frame.work import Read, Work
from optgraph.kernels.pool import neutral_to

_PROGRAMS = 128  # about one per SM


def global_pool(
    x: torch.Tensor,
    out: torch.Tensor,
    *,
    kind: str,
    before: Prologue = Prologue(),
    act: Act = IDENTITY,
    quants: tuple[Quant, ...] = (),
    tile: Tile | None = None,
) -> Launch:
    """One launch of a pool of `kind` "max" or "average" over H and W into out [N, 1, 1, C]. quants: the grids that it
    is rounded to, as those of an `Epilogue`."""
    image, stride_c, neutral = Image.of(x), strides4(x)[3], neutral_to(kind)
    batch, height, width, channels = x.shape
    before.check(channels)
    check_grid(x.dtype, before.quant, "x")
    check_grids(out.dtype, quants)
    check_shape(out, (batch, 1, 1, channels), "out")
    tile = tile or global_tile(batch, height * width, channels, target_of(x))
    ends = {"pre": before.argument(), "act": Scalar.of(act), "grids": Grids.of(quants)}
    numbers = {"pixels": height * width, "channels": channels, "out_n": row_stride(out, "out")}
    return Launch(
        "global_pool",
        ours("global_pool"),
        (batch, cdiv(channels, tile.block_n)),
        {"x": x, "out": out, "image": image, **ends, **numbers},
        {
            "STRIDE_C": stride_c,
            "CLEAR": before.moves(neutral),  # what lies outside must come out of the prologue as it went in
            "MAX": kind == "max",
            "ALIGN": alignment(channels, *image.strides, itemsize=x.element_size()),
            **tile.blocks(),
        },
        tile,
        Work((Read(x),), (out,), before.vectors, terms=height * width),
    )


def global_tile(batch: int, pixels: int, channels: int, target: Target) -> Tile:
    """Channel blocks as wide as still leaves every SM a program, but no narrower than a 32-byte sector."""
    if target.interpreted:
        block_n = min(ceil_pow2(channels), 4096)
        return Tile(min(ceil_pow2(pixels), 2**18 // block_n), block_n, num_stages=1)
    batch = planned_batch(batch, target)
    block_n = 128
    while block_n > 16 and batch * cdiv(channels, block_n) < _PROGRAMS:
        block_n //= 2
    return Tile(min(ceil_pow2(pixels), 4096 // block_n), block_n, num_stages=1)


def reference(
    x: torch.Tensor,
    out: torch.Tensor,
    *,
    kind: str,
    before: Prologue = Prologue(),
    act: Act = IDENTITY,
    quants: tuple[Quant, ...] = (),
) -> torch.Tensor:
    """The same in float64; of `out`, only the type is read."""
    x = before.reference(x)
    y = act.apply(x.amax((1, 2), keepdim=True) if kind == "max" else x.mean((1, 2), keepdim=True))
    return on_grids(y, quants, out)


def samples() -> Iterator[tuple[str, Sample]]:
    """Odd sizes and every prologue."""
    shapes = (1, 7, 9, 37), (3, 13, 5, 3), (1, 8, 8, 73), (2, 1, 1, 5)
    for kind, shape, tile in product(["max", "average"], shapes, [None, Tile(8, 16), Tile(64, 32)]):
        x, out = image(*shape, planes=tile is None), image(shape[0], 1, 1, shape[3], beside=8)
        yield "odd sizes", Sample({"x": x, "out": out, "kind": kind, "act": Act("sigmoid"), "tile": tile})
    acts = IDENTITY, RELU, Act("sigmoid")
    for kind, scale, shift, act in product(["max", "average"], [None, True], [None, True], acts):
        x, out, before = image(2, 5, 7, 19), image(2, 1, 1, 19, beside=8), prologue(Prologue(scale, shift, act), 19)
        options = {"kind": kind, "before": before, "act": Act("tanh"), "tile": Tile(16, 16)}
        yield "prologue", Sample({"x": x, "out": out, **options})
    for kind, tile in product(["max", "average"], [None, Tile(16, 16)]):
        x, out = image(2, 5, 7, 37, dtype="int8", beside=2), image(2, 1, 1, 37, dtype="int8", beside=16)
        grids = {"before": Prologue(quant=Quant(0.0625, -7)), "quants": (Quant(0.125, 3),)}
        yield "int8", Sample({"x": x, "out": out, "kind": kind, "tile": tile, **grids})


GLOBAL_POOL = Kernel(global_pool, reference, samples)
