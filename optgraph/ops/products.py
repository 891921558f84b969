"""Weights that were int8 in the model, multiplied with int8: sums of integers, and one scale a column.

y = (sum + start) * scale + bias        scale = scale of x * that of the column
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from optgraph.ir.op import Node
from optgraph.ir.quant import Grid, Quant
from optgraph.ir.values import Window
from optgraph.kernels import conv2d, dense, depthwise, pointwise
from optgraph.kernels.frame.ends import Epilogue, Prologue
from optgraph.kernels.frame.starts import starts, window_starts
from optgraph.plan.lowering import Lowering
from optgraph.plan.plan import Weight

MOST_TERMS = (2**31 - 1) // 2**14  # of a sum in int32


class Products:
    """How an input `x` is multiplied with weights: as integers where both are such and nothing comes before, or what
    comes before makes some; else as floats."""

    def __init__(self, context: Lowering, x: str, pre: Prologue, *weights: str) -> None:
        self._context = context
        self._weights = weights
        if pre.onto is not None:
            self._quant = pre.onto if context.reads_integers else None
        else:
            self._quant = None if pre.affine or pre.act else context.quant(x)
        grids = [context.graph.grids.get(weight) for weight in weights]
        self._grids = tuple(g for w, g in zip(weights, grids, strict=True) if g is not None and self._fits(w, g))
        self.integers = self._quant is not None and len(self._grids) == len(weights)

    def _fits(self, weight: str, grid: Grid) -> bool:
        terms = math.prod(int(d) for d in self._context.graph.shape(weight)[1:])
        return grid.symmetric and (grid.axis == 0 or len(grid.scale) == 1) and terms <= MOST_TERMS

    def weight(self, integers: Callable[..., Any], floats: Callable[..., Any], **options: Any) -> Weight:
        """The weights packed by one of the two."""
        if not self.integers:
            return self._context.matrix(floats, *self._weights, **options)
        return self._context.weight(integers, *self._weights, dtype="int8", grids=self._grids, **options)

    def after(self, end: Epilogue, window: Window | None = None, size: tuple[int, int] = (0, 0)) -> Epilogue:
        """`end` with what makes real numbers of sums. window: over x of height and width `size`, if what is beyond them
        is left out of a sum."""
        if self._quant is None or not self.integers:
            return end
        common: dict[str, Any] = {"grids": self._grids}
        scale = self._context.weight(scales, *self._weights, dtype="float32", step=self._quant.scale, **common)
        if not self._quant.zero:
            return replace(end, scale=scale)
        common |= {"zero": self._quant.zero, "window": window, "size": size}
        return replace(
            end, scale=scale, start=self._context.weight(sum_starts, *self._weights, dtype="int32", **common)
        )


def rounds_to(context: Lowering, node: Node, quants: tuple[Quant, ...]) -> tuple[Quant, ...]:
    """The grids that a launch rounds to: those of the operator, or that of what it reads where it stays on it."""
    quant = context.quant(node.output)
    return quants or ((quant,) if quant is not None else ())


# ---- packing


def _integers(constants: tuple[torch.Tensor, ...], grids: tuple[Grid, ...]) -> list[torch.Tensor]:
    found = []
    for constant, grid in zip(constants, grids, strict=True):
        numbers = grid.integers(constant.numpy())
        assert numbers is not None, "a weight is not on its grid"
        found.append(torch.from_numpy((numbers.astype(np.int16) - (grid.zero[0])).astype(np.int8)))
    return found


def scales(*constants: torch.Tensor, grids: tuple[Grid, ...], step: float) -> torch.Tensor:
    """What a step of each column's sum is worth. step: of x."""
    vectors = [torch.tensor(grid.scale).expand(c.shape[0]) for c, grid in zip(constants, grids, strict=True)]
    return torch.cat(vectors).float() * torch.tensor(step)


def sum_starts(
    *constants: torch.Tensor, grids: tuple[Grid, ...], zero: int, window: Window | None, size: tuple[int, int]
) -> torch.Tensor:
    """What the zero of x adds to the sums."""
    matrices = _integers(constants, grids)
    if window is None:
        found = starts(torch.cat([matrix.flatten(1) for matrix in matrices]), zero)
    else:
        found = window_starts(matrices[0], zero, window, size)
    assert found is not None
    return found


def pack_pointwise(*constants: torch.Tensor, grids: tuple[Grid, ...]) -> torch.Tensor:
    return pointwise.pack_integers(*_integers(constants, grids))


def pack_depthwise(constant: torch.Tensor, grids: tuple[Grid, ...]) -> torch.Tensor:
    return depthwise.pack(_integers((constant,), grids)[0])


def pack_conv2d(constant: torch.Tensor, grids: tuple[Grid, ...], groups: int) -> torch.Tensor:
    return conv2d.pack_integers(_integers((constant,), grids)[0], groups)


def pack_dense(
    constant: torch.Tensor, grids: tuple[Grid, ...], image: tuple[int, int, int] | None = None
) -> torch.Tensor:
    return dense.pack_integers(_integers((constant,), grids)[0], image)
