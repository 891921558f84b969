"""What the zero of x's grid adds to sums of integers.

    sum_k (x[m, k] - zero) * w[k, n] = sum_k x[m, k] * w[k, n] - zero * sum_k w[k, n]

Of a window, only the taps inside x count: so what is added depends on where its pixel is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from optgraph.ir.values import Window
from optgraph.kernels.frame.tile import cdiv


def starts(matrix: torch.Tensor, zero: int) -> torch.Tensor | None:
    """Of an int8 matrix [columns, ...], of which all meets x: int32 [columns]; None for nothing."""
    return -zero * matrix.flatten(1).sum(1, dtype=torch.int32) if zero else None


class Kinds(NamedTuple):
    """Kinds of output pixels, by which taps are inside x: row `i` of the output is of kind min(i, top) + max(i -
    bottom, 0) of `down` kinds of rows; columns alike, of `across` kinds."""

    top: int
    bottom: int
    left: int
    right: int
    across: int
    down: int

    @classmethod
    def of(cls, window: Window, size: tuple[int, ...], made: tuple[int, int]) -> Kinds:
        """size, made: height and width of x and of the output."""
        rows, columns = (_edges(window, size[axis], made[axis], axis) for axis in (0, 1))
        down, across = (int(kinds_along(count, *ends)[-1]) + 1 for ends, count in ((rows, made[0]), (columns, made[1])))
        return cls(*rows, *columns, across, down)

    @property
    def shape(self) -> tuple[int, int]:
        return self.down, self.across


def _edges(window: Window, size: int, made: int, axis: int) -> tuple[int, int]:
    """How many of the first places of an axis of the output miss taps, and the last place that misses none, or the last
    of those first."""
    before, stride = window.pads[axis], window.stride[axis]
    reach = window.dilation[axis] * (window.kernel[axis] - 1)
    first = min(max(cdiv(before, stride), 0), made)
    return first, max(first, (size - 1 - reach + before) // stride)


def window_starts(weight: torch.Tensor, zero: int, window: Window, size: tuple[int, int]) -> torch.Tensor | None:
    """Of an int8 ONNX weight [Cout, Cin/groups, kh, kw] on x of height and width `size`: int32 [kinds of rows, kinds of
    columns, Cout], or [Cout] if there is one kind; None for nothing."""
    if not zero:
        return None
    height, width = (int(length) for length in window.over(*size))
    kinds = Kinds.of(window, size, (height, width))
    per_tap = weight.sum(1, dtype=torch.int32)  # [Cout, kh, kw]
    inside = [_inside(window, size[axis], made, axis).int() for axis, made in enumerate((height, width))]
    rows, columns = (
        _first_of_each(kinds_along(count, *ends)) for count, ends in ((height, kinds[:2]), (width, kinds[2:4]))
    )
    sums = torch.einsum("rk,cl,okl->rco", inside[0][rows].double(), inside[1][columns].double(), per_tap.double())
    found = (-zero * sums).to(torch.int32).contiguous()
    return found.flatten() if kinds.shape == (1, 1) else found


def kinds_along(count: int, first: int, last: int) -> torch.Tensor:
    """The kind of each place of an axis."""
    place = torch.arange(count)
    return place.clamp(max=first) + (place - last).clamp(min=0)


def _first_of_each(kinds: torch.Tensor) -> torch.Tensor:
    return torch.searchsorted(kinds, kinds.unique())


def _inside(window: Window, size: int, made: int, axis: int) -> torch.Tensor:
    """[places of the output, taps]: whether a tap is inside x."""
    place = torch.arange(made)[:, None] * window.stride[axis] - window.pads[axis]
    at = place + torch.arange(window.kernel[axis]) * window.dilation[axis]
    return (at >= 0) & (at < size)
