"""Local response normalisation: out[c] = x[c] * (bias + alpha/size * sum of x[j]^2) ^ -beta.

The sum is over the `size` channels j around c, (size - 1) // 2 of them below, as far as they exist.
x [N, H, W, C] with any strides, out [N, H, W, C] with dense pixels: a concat slice is fine.

Bound by bytes: a program holds a block of channels and reads their neighbours again, which are in cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch

from optgraph.kernels.frame.ends import check_floats
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.launch import Launch
from optgraph.kernels.frame.operands import check_shape, strides4
from optgraph.kernels.frame.rowwise import rowwise
from optgraph.kernels.frame.sample import Sample, image
from optgraph.kernels.frame.tile import Tile
from optgraph.kernels.frame.view import View
from optgraph.kernels.frame.work import Read, Work


def lrn(
    x: torch.Tensor,
    out: torch.Tensor,
    *,
    size: int,
    alpha: float,
    beta: float,
    bias: float,
    tile: Tile | None = None,
) -> Launch:
    """One launch; the parameters are those of ONNX LRN."""
    check_floats(x=x)
    strides4(x)
    check_shape(out, tuple(x.shape), "out")
    arguments = {"scale": alpha / size, "beta": beta, "bias": bias}
    # One stage: the neighbours are in cache, and need no prefetch.
    work = Work((Read(x),), (out,), terms=size)
    return rowwise("lrn", {"x": x, "out": out}, arguments, {"SIZE": size}, work, tile, stages=1)


def reference(x: torch.Tensor, out: torch.Tensor, *, size: int, alpha: float, beta: float, bias: float) -> torch.Tensor:
    """The same in float64; `out` is not read."""
    x = x.double()
    below, above = (size - 1) // 2, size // 2
    squares = torch.nn.functional.pad(x * x, (below, above)).unfold(-1, size, 1).sum(-1)
    return x * (bias + alpha / size * squares) ** -beta


def samples() -> Iterator[tuple[str, Sample]]:
    """Odd sizes and parameters; the sum decides, not the bias."""
    shapes = (1, 7, 9, 37), (3, 5, 4, 3), (2, 3, 3, 96), (2, 4, 1, 1)
    for shape, tile in product(shapes, [None, Tile(16, 16), Tile(4, 64)]):
        x = image(*shape, planes=tile is None)
        yield "odd sizes", _sample(x, size=5, alpha=2.0, beta=0.75, bias=0.5, tile=tile)
    for size, beta in product([1, 2, 4, 5, 9, 50], [0.75, 1.0, -0.5]):
        x = image(2, 3, 5, 21, beside=2)
        yield "parameters", _sample(x, size=size, alpha=0.7, beta=beta, bias=2.0, tile=Tile(16, 16))
    x = image(1, 2, 2, 6, beside=7)
    yield "neighbours of a slice", _sample(x, size=5, alpha=2.0, beta=0.75, bias=0.5, tile=Tile(4, 4))


def _sample(x: View, **parameters: Any) -> Sample:
    return Sample({"x": x, "out": image(*x.shape, beside=8), **parameters})


LRN = Kernel(lrn, reference, samples)
