"""Elementwise: out = grid( post( combine( act(x * scale + shift), other ) ) ), combine being one of COMBINE.

x [N, H, W, C] with any strides; scale, shift fp32 [C]; other [N, H, W, C] with any strides. An axis of x or other that
has one element is broadcast along out's. out [N, H, W, C] with dense pixels. With none of the options it is the copy
(and cast) into a channel slice that a concat needs, or the change from NCHW to NHWC. From int8, to int8 and between
grids of int8: what `before.quant`, `other_quant` and `quants` say; int8 without a grid is whole numbers.

Bound by bytes: each operand is read once, the result written once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import torch

from optgraph.ir.quant import Quant
from optgraph.ir.values import IDENTITY, RELU, Act
from optgraph.kernels.frame.arguments import OURS, Grid, Grids, Jit, Scalar
from optgraph.kernels.frame.ends import Prologue, check_grid, check_grids, on_grids
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.launch import Launch
from optgraph.kernels.frame.operands import strides4
from optgraph.kernels.frame.rowwise import rowwise
from optgraph.kernels.frame.sample import Sample, image, prologue
from optgraph.kernels.frame.tile import Tile
from optgraph.kernels.frame.work import Read, Work

# What combines two operands -> its jit function, and the same in torch.
COMBINE: dict[str, tuple[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]] = {
    "add": ("add", torch.add),
    "sub": ("sub", torch.sub),
    "mul": ("mul", torch.mul),
    "div": ("div", torch.div),
    "min": ("minimum", torch.minimum),
    "max": ("maximum", torch.maximum),
    "pow": ("raised", torch.pow),
    "prelu": ("prelu", lambda x, y: x.where(x >= 0, y * x)),
}


def elementwise(
    x: torch.Tensor,
    out: torch.Tensor,
    *,
    before: Prologue = Prologue(),
    other: torch.Tensor | None = None,
    combine: str = "add",
    post: Act = IDENTITY,
    quants: tuple[Quant, ...] = (),
    other_quant: Quant | None = None,
    tile: Tile | None = None,
) -> Launch:
    """One launch of any pointwise chain of this form; `out` may alias `x` or `other` where the strides are equal.

    quants: the grids that it is rounded to, as those of an `Epilogue`. other_quant: of an int8 `other`, its grid.
    """
    strides4(x), strides4(out)
    if combine not in COMBINE:
        raise ValueError(f"combine is {combine!r}, expected one of {', '.join(COMBINE)}")
    x = _broadcast(x, out, "x")
    before.check(x.shape[3])
    for t, quant, name in ((x, before.quant, "x"), (other, other_quant, "other")):
        if t is not None and quant is not None:
            check_grid(t.dtype, quant, name)
    if quants:
        check_grids(out.dtype, quants)
    other = None if other is None else _broadcast(other, out, "other")
    *others, other_c = (0, 0, 0, 0) if other is None else strides4(other)
    strides = tuple(others)
    wide = strides if other_c else ()  # one number for all channels is loaded by itself
    arguments = {
        "pre": before.argument(),
        "combine": Jit(f"{OURS}.combine", COMBINE[combine][0]),
        "other": other,
        "other_strides": strides,
        "other_grid": Grid.of(other_quant),
        "post": Scalar.of(post),
        "grids": Grids.of(quants),
    }
    work = Work((Read(x), *([] if other is None else [Read(other)])), (out,), before.vectors)
    return rowwise("elementwise", {"x": x, "out": out}, arguments, {"OTHER_C": other_c}, work, tile, strides=wide)


def _broadcast(t: torch.Tensor, out: torch.Tensor, name: str) -> torch.Tensor:
    """`t` with stride 0 along every axis of `out` that it has only one element of."""
    if tuple(t.shape) == tuple(out.shape):
        return t
    if t.dim() != 4 or any(size not in (1, wanted) for size, wanted in zip(t.shape, out.shape, strict=True)):
        raise ValueError(f"{name} has shape {tuple(t.shape)}, which does not broadcast to out's {tuple(out.shape)}")
    return t.expand(out.shape)


def reference(
    x: torch.Tensor,
    out: torch.Tensor,
    *,
    before: Prologue = Prologue(),
    other: torch.Tensor | None = None,
    combine: str = "add",
    post: Act = IDENTITY,
    quants: tuple[Quant, ...] = (),
    other_quant: Quant | None = None,
) -> torch.Tensor:
    """The same in float64; of `out`, only shape and type are read."""
    y = before.reference(x)
    if other is not None:
        other = other.double() if other_quant is None else other_quant.real(other.double())
        y = COMBINE[combine][1](y, other)
    return on_grids(post.apply(y), quants, out).expand(out.shape)


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
    # Of whole[i] one element, for every i of some: rows, planes, numbers; either operand may be the larger.
    for combine, axes in product(COMBINE, [(0,), (1, 2), (0, 3), (0, 1, 2, 3)]):
        part = image(*(1 if axis in axes else size for axis, size in enumerate(whole)))
        operands = {"x": image(*whole), "other": part} if len(axes) != 2 else {"x": part, "other": image(*whole)}
        base = Prologue(act=Act("softplus") if combine == "pow" else IDENTITY)  # a power of what is not negative
        options = {"combine": combine, "before": base, "post": RELU if combine == "add" else IDENTITY}
        yield "broadcast", Sample({**operands, "out": image(*whole, beside=8), **options})
    yield from _integer_samples(whole)


def _integer_samples(shape: tuple[int, int, int, int]) -> Iterator[tuple[str, Sample]]:
    """From and to int8, and between its grids. Scales are such that ties are ties in every type."""
    some, finer, coarser = Quant(0.0625, -7), Quant(0.03125, 100), Quant(0.25, 2)
    x, out = image(*shape, dtype="int8", beside=2), image(*shape, dtype="int8", beside=16)
    read = Prologue(quant=some)
    for quants in ((finer,), (coarser,), (finer, coarser)):
        yield "int8 to int8", Sample({"x": x, "out": out, "before": read, "quants": quants})
    yield "int8 to numbers", Sample({"x": x, "out": image(*shape, beside=8), "before": read})
    yield "numbers to int8", Sample({"x": image(*shape, planes=True), "out": out, "quants": (some,)})
    sums = {"other": image(*shape, dtype="int8", beside=16), "other_quant": coarser, "post": RELU, "tile": Tile(16, 64)}
    yield "int8 sums", Sample({"x": x, "out": out, "before": read, "quants": (coarser,), **sums})
    mixed = {"other": image(*shape), "combine": "mul", "before": prologue(Prologue(True, True, RELU, some), shape[3])}
    yield "int8 and numbers", Sample({"x": x, "out": out, "quants": (some,), **mixed})


ELEMENTWISE = Kernel(elementwise, reference, samples)
