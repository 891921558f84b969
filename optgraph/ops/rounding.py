"""Operators whose results may be rounded to grids (`ir/quant.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from optgraph.ir.op import Op
from optgraph.ir.quant import Quant

if TYPE_CHECKING:
    from torch import Tensor

MOST_GRIDS = 2  # that one operator rounds to: as many as its kernel does


@dataclass(frozen=True, kw_only=True)
class Rounding(Op):
    """Base of the operators that can do this last: round to the grids of `quants`, one after the other."""

    quants: tuple[Quant, ...] = ()

    def on_grid(self, grids: Sequence[Quant | None], output: int = 0) -> Quant | None:
        return self.quants[-1] if self.quants else super().on_grid(grids, output)


def rounded(y: Tensor, quants: Sequence[Quant]) -> Tensor:
    """The nearest numbers of the grids, one after the other."""
    for quant in quants:
        y = quant.apply(y)
    return y
