"""Images read at other rows and columns: a resize, a mirror image, a selection of rows.

    out[n, h, w, c] = sum over s and t of a[h, s] * b[w, t] * x[n, i[h, s], j[w, t], c]

rows: i and a as one float32 vector, i[h, s] in order and then a[h, s], in order too; of one tap a row, whose weight is
1, only i. Absent: i[h] = h. columns: the same for j and b. Positions outside of x are those at its edge.
x [N, H, W, C] and out [N, Ho, Wo, C] with any strides.

Bound by bytes: the taps of neighbouring pixels overlap, in cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle, product

import torch

from optgraph.kernels.frame.arguments import Image, ours
from optgraph.kernels.frame.ends import check_floats
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.launch import Launch, target_of
from optgraph.kernels.frame.operands import check_shape, check_vector, strides4
from optgraph.kernels.frame.rows import alignment, row_tile
from optgraph.kernels.frame.sample import Sample, image, vector
from optgraph.kernels.frame.tile import Tile, cdiv
from optgraph.kernels.frame.work import Read, Work


def resample(
    x: torch.Tensor,
    out: torch.Tensor,
    *,
    rows: torch.Tensor | None = None,
    columns: torch.Tensor | None = None,
    tile: Tile | None = None,
) -> Launch:
    """One launch. int8, of one tap a row and a column, is moved as it is."""
    batch, height, width, channels = out.shape
    taps = [_taps(table, size, name) for table, size, name in ((rows, height, "rows"), (columns, width, "columns"))]
    if taps != [1, 1]:
        check_floats(x=x)
    kept = [x.shape[axis + 1] if table is None else out.shape[axis + 1] for axis, table in enumerate((rows, columns))]
    check_shape(out, (x.shape[0], *kept, x.shape[3]), "out")
    pixels = batch * height * width
    # One stage: the taps are in cache, and need no prefetch.
    tile = tile or row_tile(pixels, channels, x.element_size(), target_of(x), stages=1)
    source, target = Image.of(x), Image.of(out)
    tables = {"rows": rows, "columns": columns}
    return Launch(
        "resample",
        ours("resample"),
        (cdiv(pixels, tile.block_m), cdiv(channels, tile.block_n)),
        {"x": x, "out": out, **tables, "image": source, "to": target, "pixels": pixels, "channels": channels},
        {
            "ROWS": taps[0],
            "COLUMNS": taps[1],
            "STRIDE_C": strides4(x)[3],
            "OUT_C": strides4(out)[3],
            "ALIGN": alignment(channels, *source.strides, *target.strides, itemsize=x.element_size()),
            **tile.blocks(),
        },
        tile,
        Work((Read(x),), (out,), tables, terms=taps[0] * taps[1]),
    )


def _taps(table: torch.Tensor | None, size: int, name: str) -> int:
    """How many there are a position."""
    if table is None:
        return 1
    check_vector(table, table.numel(), name)
    taps = table.numel() // size
    if taps * size != table.numel() or (taps != 1 and taps % 2):
        raise ValueError(f"{name} of {table.numel()} numbers for {size} positions")
    return max(taps // 2, 1)


def table(index: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Positions and weights, [size, taps] each, as `rows` and `columns` are to have them."""
    parts = [index, weight] if index.shape[1] > 1 else [index]
    return torch.cat([part.reshape(-1).float() for part in parts])


def reference(
    x: torch.Tensor, out: torch.Tensor, *, rows: torch.Tensor | None = None, columns: torch.Tensor | None = None
) -> torch.Tensor:
    """The same in float64; of `out`, only the shape is read."""
    y = x.double()
    for axis, found in ((1, rows), (2, columns)):
        if found is not None:
            taps = _taps(found, out.shape[axis], "table")
            index = found[: out.shape[axis] * taps].reshape(-1, taps).long().clamp(0, x.shape[axis] - 1)
            weight = found.double()[index.numel() :].reshape(-1, taps) if taps > 1 else torch.ones_like(index)
            shape = [-1 if i == axis else 1 for i in range(4)]
            y = torch.stack([y.index_select(axis, index[:, t]) * weight[:, t].reshape(shape) for t in range(taps)]).sum(
                0
            )
    return y


def samples() -> Iterator[tuple[str, Sample]]:
    """Odd sizes, and every number of taps on either axis; positions are random, many of them outside."""
    tiles = cycle([None, Tile(16, 16), Tile(4, 64)])
    for (down, across), tile in zip(product([0, 1, 2, 4], repeat=2), tiles, strict=False):
        yield "taps", _sample((2, 5, 7, 37), (9, 4), down, across, tile)
    for shape, tile in zip([(1, 9, 6, 3), (3, 2, 2, 64), (2, 3, 5, 1)], tiles, strict=False):
        yield "shapes", _sample(shape, (3, 8), 2, 2, tile, planes=True)
        yield "selected", _sample(shape, (4, 5), 1, 1, tile)
    x, out = image(2, 5, 7, 37, dtype="int8"), image(2, 9, 4, 37, dtype="int8", beside=16)
    yield "int8", Sample({"x": x, "out": out, "rows": vector(9), "columns": vector(4)})


def _sample(
    shape: tuple[int, int, int, int],
    size: tuple[int, int],
    down: int,
    across: int,
    tile: Tile | None,
    planes: bool = False,
) -> Sample:
    (n, h, w, c), tables, made = shape, {}, []
    for name, taps, before, after in (("rows", down, h, size[0]), ("columns", across, w, size[1])):
        tables[name] = vector(after * (2 * taps if taps > 1 else 1)) if taps else None
        made.append(after if taps else before)
    out = image(n, *made, c, planes=planes) if planes else image(n, *made, c, beside=8)
    return Sample({"x": image(*shape, planes=planes), "out": out, **tables, "tile": tile})


RESAMPLE = Kernel(resample, reference, samples)
