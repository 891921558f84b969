"""A copy from any strides to any strides: out[i, j, ...] = x[i, j, ...], x broadcast to the shape of out.

What a reshape, a transpose, an expansion or a concatenation comes to where no view says it. x and out of any rank, but
of six axes at most once those are merged that lie in both as one; the type of out may be another.

Bound by bytes. An axis of neighbours is read and written in blocks: in out, or in x if those in out are few.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle

import torch

from optgraph.kernels.frame.arguments import ours
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.launch import Launch, target_of
from optgraph.kernels.frame.rows import alignment, row_tile
from optgraph.kernels.frame.sample import IMAGE, STORED, Sample, image
from optgraph.kernels.frame.tile import Tile, cdiv
from optgraph.kernels.frame.view import View
from optgraph.kernels.frame.work import Read, Work

AXES = 8  # that the kernel walks, that of the blocks among them

Axis = tuple[int, int, int]  # size, and stride in x and in out


def copy(x: torch.Tensor, out: torch.Tensor, *, tile: Tile | None = None) -> Launch:
    """One launch. Raises ValueError for shapes that do not broadcast, or too many axes."""
    try:
        source = x.expand(out.shape)
    except RuntimeError as error:
        raise ValueError(f"x of shape {tuple(x.shape)} does not broadcast to {tuple(out.shape)}") from error
    (columns, x_column, out_column), *axes = _columns_first(
        merged(list(zip(out.shape, source.stride(), out.stride(), strict=True)))
    )
    if len(axes) >= AXES:
        raise ValueError(f"a copy over {len(axes) + 1} axes, of which {AXES} are the most")
    axes += [(1, 0, 0)] * (AXES - 1 - len(axes))
    sizes, x_strides, out_strides = (tuple(axis[i] for axis in axes) for i in range(3))
    rows = max(out.numel() // columns, 1)
    tile = tile or row_tile(rows, columns, x.element_size(), target_of(x))
    return Launch(
        "copy",
        ours("copy"),
        (cdiv(rows, tile.block_m), cdiv(columns, tile.block_n)),
        {
            "x": x,
            "out": out,
            "sizes": sizes,
            "x_strides": x_strides,
            "out_strides": out_strides,
            "rows": rows,
            "columns": columns,
        },
        {
            "X_COLUMN": x_column,
            "OUT_COLUMN": out_column,
            "ALIGN": alignment(columns, *x_strides, *out_strides, itemsize=x.element_size()),
            **tile.blocks(),
        },
        tile,
        Work((Read(_read_once(source)),), (out,)),
    )


def merged(axes: list[Axis]) -> list[Axis]:
    """The axes that are left, innermost in out first, when neighbours that lie in both as one are one."""
    found: list[Axis] = []
    for size, x, out in sorted((axis for axis in axes if axis[0] != 1), key=lambda axis: axis[2]):
        if found and x == found[-1][0] * found[-1][1] and out == found[-1][0] * found[-1][2]:
            found[-1] = (found[-1][0] * size, *found[-1][1:])
        else:
            found.append((size, x, out))
    return found or [(1, 1, 1)]


def _columns_first(axes: list[Axis]) -> list[Axis]:
    """The axis that is read or written in blocks in front: that of neighbours in out, or in x if it is a short one."""
    wide = next((axis for axis in axes if axis[1] == 1), axes[0])
    first = wide if axes[0][0] < min(16, wide[0]) else axes[0]
    return [first, *(axis for axis in axes if axis is not first)]


def _read_once(x: torch.Tensor) -> torch.Tensor:
    """x without what broadcasting repeats."""
    return x[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in x.stride())]


def reference(x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """The same in float64; of `out`, only the shape is read."""
    return x.double().expand(out.shape)


def samples() -> Iterator[tuple[str, Sample]]:
    """Reshapes, transposes, shuffles, slices and broadcasts, of odd sizes."""
    for (what, x, out), tile in zip(_copies(), cycle([None, Tile(16, 16), Tile(4, 64)]), strict=False):
        yield what, Sample({"x": x, "out": out, "tile": tile})


def _copies() -> Iterator[tuple[str, View, View]]:
    def buffer(*shape: int) -> View:
        return View.whole(IMAGE, shape, STORED)

    dense, shuffled = image(3, 5, 7, 24), image(3, 5, 7, 24, beside=8)
    yield "to planes", image(3, 5, 7, 37), image(3, 5, 7, 37, planes=True)
    yield "into a slice", image(2, 3, 5, 9), image(2, 3, 5, 9, beside=8)
    yield "int8", image(2, 3, 5, 48, dtype="int8"), image(2, 3, 5, 48, dtype="int8", beside=16)
    for groups in (2, 3, 8):
        grouped = dense.split(3, groups).permute(0, 1, 2, 4, 3)
        yield "shuffle", grouped, shuffled.split(3, 24 // groups)
    # Depth to space: N, H, W, blocks, C -> N, H, block, W, block, C
    phases = buffer(2, 5, 7, 2, 3, 11).permute(0, 1, 3, 2, 4, 5)
    yield "depth to space", phases, buffer(2, 10, 21, 11).split(2, 3).split(1, 2)
    yield "reversed axes", buffer(2, 3, 4, 5, 3, 7).permute(5, 4, 3, 2, 1, 0), buffer(7, 3, 5, 4, 3, 2)
    yield "broadcast", buffer(1, 5, 1, 37), image(3, 5, 7, 37, beside=4)
    yield "broadcast of the last axis", buffer(3, 5, 1), buffer(3, 5, 73)
    yield "one number", buffer(1), buffer(3, 37)
    yield "vector", buffer(577), buffer(577)
    yield "strided", buffer(9, 37).part(0, 0, 9), buffer(9, 2, 37).permute(1, 0, 2).part(0, 1, 1)


COPY = Kernel(copy, reference, samples)
