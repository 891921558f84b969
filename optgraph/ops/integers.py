"""Weights that were int8 in the model, multiplied with int8: sums of integers, and one scale a column.

y = (sum + start) * scale + bias        scale = scale of x * that of the column
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from optgraph.ir.op import Node
from optgraph.ir.quant import Grid
from optgraph.ir.values import Window
from optgraph.kernels.frame.ends import Epilogue
from optgraph.kernels.frame.starts import starts, window_starts
from optgraph.plan.lowering import Lowering
from optgraph.plan.plan import Weight

MOST_TERMS = (2**31 - 1) // 2**14  # of a sum in int32


class Products:
    """The weights of one product with the input `x`, by their columns; false if it is one of floats."""

    def __init__(self, context: Lowering, x: str, *weights: str) -> None:
        self._context = context
        self._weights = weights
        self._quant = context.quant(x)
        grids = [context.graph.grids.get(weight) for weight in weights]
        self._grids = tuple(grid for grid in grids if grid is not None and self._fits(weights[0], grid))
        self._sums = self._quant is not None and len(self._grids) == len(weights)

    def __bool__(self) -> bool:
        return self._sums

    def _fits(self, weight: str, grid: Grid) -> bool:
        _, *rest = map(int, self._context.graph.shape(weight))
        columns = grid.axis == 0 or len(grid.scale) == 1
        return grid.symmetric and columns and grid.dtype != "int32" and int(np.prod(rest)) <= MOST_TERMS

    def packed(self, pack: Callable[..., Any], **options: Any) -> Weight:
        """The integers as a kernel wants them."""
        return self._context.weight(
            _packed, *self._weights, dtype="int8", pack=pack, grids=self._grids, options=tuple(options.items())
        )

    def after(self, end: Epilogue, window: Window | None = None, size: tuple[int, int] = (0, 0)) -> Epilogue:
        """`end` with what makes real numbers of sums. window: over x of height and width `size`, if what is beyond them
        is left out of a sum."""
        assert self._quant is not None
        options: dict[str, Any] = {"grids": self._grids, "step": self._quant.scale}
        scale = self._context.weight(_scales, *self._weights, dtype="float32", **options)
        if not self._quant.zero:
            return replace(end, scale=scale)
        options = {"grids": self._grids, "zero": self._quant.zero, "window": window, "size": size}
        return replace(end, scale=scale, start=self._context.weight(_starts, *self._weights, dtype="int32", **options))


def _integers(constant: torch.Tensor, grid: Grid) -> torch.Tensor:
    found = grid.integers(constant.numpy())
    assert found is not None, "a weight is not on its grid"
    return torch.from_numpy((found.astype(np.int16) - (128 if grid.dtype == "uint8" else 0)).astype(np.int8))


def _packed(
    *constants: torch.Tensor, pack: Callable[..., Any], grids: tuple[Grid, ...], options: tuple[tuple[str, Any], ...]
) -> torch.Tensor:
    packed: torch.Tensor = pack(*map(_integers, constants, grids), **dict(options))
    return packed


def _scales(*constants: torch.Tensor, grids: tuple[Grid, ...], step: float) -> torch.Tensor:
    vectors = [torch.tensor(grid.scale).expand(c.shape[0]) for c, grid in zip(constants, grids, strict=True)]
    return torch.cat(vectors).float() * torch.tensor(step)


def _starts(
    *constants: torch.Tensor, grids: tuple[Grid, ...], zero: int, window: Window | None, size: tuple[int, int]
) -> torch.Tensor:
    matrices = list(map(_integers, constants, grids))
    found = (
        window_starts(matrices[0], zero, window, size)
        if window
        else starts(torch.cat([m.flatten(1) for m in matrices]), zero)
    )
    assert found is not None
    return found


def rounds_to(context: Lowering, node: Node, quants: tuple[Any, ...], output: int = 0) -> tuple[Any, ...]:
    """The grids that a launch rounds to: those of the operator, or that of what it reads where it stays on it."""
    quant = context.quant(node.outputs[output])
    return quants or ((quant,) if quant is not None else ())
