"""Reductions of the last axis: out = post( R over c of first(x[c]) ), R being one of REDUCTIONS.

x [N, H, W, C] and out [N, H, W, 1] with any strides: the last axis is what is reduced, wherever it lies in memory.

Bound by bytes: each element is read once. A NaN in a line is a NaN out, also of an extremum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product

import torch

from optgraph.ir.values import IDENTITY, Act
from optgraph.kernels.frame.arguments import Scalar, ours
from optgraph.kernels.frame.ends import check_floats
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.launch import Launch, target_of
from optgraph.kernels.frame.lines import Lines
from optgraph.kernels.frame.operands import check_shape
from optgraph.kernels.frame.sample import Sample, image
from optgraph.kernels.frame.tile import Tile
from optgraph.kernels.frame.work import Read, Work

# How a line is reduced -> the same in torch. The mean is a scaled sum.
REDUCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sum": lambda x: x.sum(-1, keepdim=True),
    "mean": lambda x: x.mean(-1, keepdim=True),
    "prod": lambda x: x.prod(-1, keepdim=True),
    "max": lambda x: x.amax(-1, keepdim=True),
    "min": lambda x: x.amin(-1, keepdim=True),
}


def reduce(
    x: torch.Tensor,
    out: torch.Tensor,
    *,
    kind: str,
    first: Act = IDENTITY,
    post: Act = IDENTITY,
    tile: Tile | None = None,
) -> Launch:
    """One launch of a reduction of REDUCTIONS, `first` before it and `post` after."""
    check_floats(x=x)
    if kind not in REDUCTIONS:
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(REDUCTIONS)}")
    lines = Lines.of(x, out)
    check_shape(out, (*x.shape[:3], 1), "out")
    tile = tile or lines.tile(target_of(x))
    if kind == "prod":
        tile = replace(tile, block_n=1)  # one by one, for there is no tree of products
    return Launch(
        "reduce",
        ours("reduce"),
        lines.grid(x.shape[0], tile),
        {
            "x": x,
            "out": out,
            "lines": lines,
            "first": Scalar.of(first),
            "scale": 1.0 / lines.columns if kind == "mean" else 1.0,
            "post": Scalar.of(post),
        },
        {"KIND": "sum" if kind == "mean" else kind, **lines.constants(whole=False), **tile.blocks()},
        tile,
        Work((Read(x),), (out,), terms=lines.columns),
    )


def reference(
    x: torch.Tensor, out: torch.Tensor, *, kind: str, first: Act = IDENTITY, post: Act = IDENTITY
) -> torch.Tensor:
    """The same in float64; `out` is not read."""
    return post.apply(REDUCTIONS[kind](first.apply(x.double())))


def samples() -> Iterator[tuple[str, Sample]]:
    """Lines of pixels, of planes and in another order, in one block and in several."""
    for kind, tile in product(REDUCTIONS, [None, Tile(4, 16)]):
        for x in (image(1, 3, 5, 37, beside=2), image(2, 9, 3, 16).permute(0, 2, 3, 1), image(2, 5, 1, 24)):
            out = image(*x.shape[:3], 1, beside=3)
            yield "odd sizes", Sample({"x": x, "out": out, "kind": kind, "tile": tile})
    for first, post in ((Act("power", 2.0), Act("sqrt")), (Act("abs"), IDENTITY), (Act("exp"), Act("log"))):
        x, out = image(2, 3, 5, 19), image(2, 3, 5, 1)
        yield "functions", Sample({"x": x, "out": out, "kind": "sum", "first": first, "post": post})
    yield "a long line", Sample({"x": image(1, 1, 2, 20001), "out": image(1, 1, 2, 1), "kind": "mean"})


REDUCE = Kernel(reduce, reference, samples)
