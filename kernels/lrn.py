"""Local response normalisation: out[c] = x[c] * (bias + alpha/size * sum of x[j]^2) ^ -beta.

The sum is over the `size` channels j around c, (size - 1) // 2 of them below, as far as they exist.
x [N, H, W, C] with any strides, out [N, H, W, C] with dense pixels: a concat slice is fine.

Bound by bytes: a program holds a block of channels and reads their neighbours again, which are in cache.
"""

from __future__ import annotations

import torch

from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.launch import Launch
from optgraph.kernels.frame.operands import check_shape, strides4
from optgraph.kernels.frame.rowwise import rowwise
from optgraph.kernels.frame.tile import Tile
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
    strides4(x)
    check_shape(out, tuple(x.shape), "out")
    arguments = {"scale": alpha / size, "beta": beta, "bias": bias}
    # One stage: the neighbours are in cache, and need no prefetch.
    work = Work((Read(x),), (out,))
    return rowwise("lrn", {"x": x, "out": out}, arguments, {"SIZE": size}, work, tile, stages=1)


def reference(x: torch.Tensor, out: torch.Tensor, *, size: int, alpha: float, beta: float, bias: float) -> torch.Tensor:
    """The same in float64; `out` is not read."""
    x = x.double()
    below, above = (size - 1) // 2, size // 2
    squares = torch.nn.functional.pad(x * x, (below, above)).unfold(-1, size, 1).sum(-1)
    return x * (bias + alpha / size * squares) ** -beta


LRN = Kernel(lrn, reference)
