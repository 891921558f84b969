"""Elementwise: out = post( combine( act(x * scale + shift), other ) ) where combine is + or *.

x [N, H, W, C] with any strides; scale, shift fp32 [C]; other [N, H, W, C] with any strides, or [N, 1, 1, C] broadcast
over the image; out [N, H, W, C] with dense pixels. With none of the options it is the copy (and cast) into a channel
slice that a concat needs, or the change from NCHW to NHWC.

Bound by bytes: each operand is read once, the result written once.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch

from optgraph.ir.values import IDENTITY, RELU, Act
from optgraph.kernels.frame.arguments import Scalar
from optgraph.kernels.frame.ends import Prologue
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.launch import Launch
from optgraph.kernels.frame.operands import check_shape, strides4
from optgraph.kernels.frame.rowwise import rowwise
from optgraph.kernels.frame.sample import Sample, image, prologue
from optgraph.kernels.frame.tile import Tile
from optgraph.kernels.frame.work import Read, Work


def elementwise(
    x: torch.Tensor,
    out: torch.Tensor,
    *,
    before: Prologue = Prologue(),
    other: torch.Tensor | None = None,
    combine: str = "add",
    post: Act = IDENTITY,
    tile: Tile | None = None,
) -> Launch:
    """One launch of any pointwise chain of this form; `out` may alias `x` or `other` where the strides are equal."""
    strides4(x)
    check_shape(out, tuple(x.shape), "out")
    before.check(x.shape[3])
    if combine not in ("add", "mul"):
        raise ValueError(f"combine is {combine!r}, expected 'add' or 'mul'")
    *others, other_c = (0, 0, 0, 0) if other is None else _strides(other, tuple(x.shape))
    arguments = {"pre": before.argument(), "other": other, "other_strides": tuple(others), "post": Scalar.of(post)}
    constants = {"OTHER_C": other_c, "MULTIPLY": combine == "mul"}
    work = Work((Read(x), *([] if other is None else [Read(other)])), (out,), before.vectors)
    return rowwise("elementwise", {"x": x, "out": out}, arguments, constants, work, tile, strides=tuple(others))


def _strides(other: torch.Tensor, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Strides of the second operand, as large as the first or one pixel for all of an image."""
    n, h, w, c = strides4(other)
    if tuple(other.shape) == (shape[0], 1, 1, shape[3]):
        return n, 0, 0, c
    check_shape(other, shape, "other")
    return n, h, w, c


def reference(
    x: torch.Tensor,
    out: torch.Tensor,
    *,
    before: Prologue = Prologue(),
    other: torch.Tensor | None = None,
    combine: str = "add",
    post: Act = IDENTITY,
) -> torch.Tensor:
    """The same in float64; `out` is not read."""
    y = before.reference(x)
    if other is not None:
        y = y * other.double() if combine == "mul" else y + other.double()
    return post.apply(y)


def samples() -> Iterator[tuple[str, Sample]]:
    """Copies and casts, and every combination of options."""
    whole = (3, 5, 7, 37)
    shapes = (1, 7, 9, 37), (3, 13, 5, 3), (3, 1, 1, 73), (2, 4, 1, 1), (1, 3, 3, 24)
    for shape, planes, tile in product(shapes, [False, True], [None, Tile(16, 16), Tile(4, 128)]):
        yield "copy", Sample({"x": image(*shape, planes=planes), "out": image(*shape, beside=8), "tile": tile})
    for dtype in ("float32", "float16", "bfloat16"):
        yield "cast", Sample({"x": image(2, 5, 7, 19, dtype=dtype), "out": image(2, 5, 7, 19, beside=8)})
    alike = image(*whole), image(*whole, planes=True), image(*whole, beside=2)
    others = None, *alike, image(3, 1, 1, 37, beside=2)
    for other, scale, shift in product(others, [None, True], [None, True]):
        ends = {"add": (Act("clip", -0.5, 1.0), RELU), "mul": (Act("sigmoid"), IDENTITY)}
        for combine, (act, post) in ends.items():
            options = {"before": prologue(Prologue(scale, shift, act), 37), "post": post, "tile": Tile(64, 32)}
            operands = {"x": image(*whole), "out": image(*whole, beside=8), "other": other}
            yield "every option", Sample({**operands, "combine": combine, **options})


ELEMENTWISE = Kernel(elementwise, reference, samples)
