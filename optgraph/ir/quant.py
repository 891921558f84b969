"""Grids: the real numbers that int8 can stand for.

    real = (q - zero) * scale        q = clamp(round(real / scale) + zero, -128, 127), of two nearest the even one

A graph holds real numbers throughout; that some lie on a grid is what lets lowering store them as int8. A uint8 grid of
ONNX is the same one 128 lower: (u - z) * s = ((u - 128) - (z - 128)) * s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

LOWEST, HIGHEST = -128, 127


@dataclass(frozen=True)
class Quant:
    """One grid for a whole tensor. `scale` is a float32 above zero, `zero` the integer that stands for 0."""

    scale: float
    zero: int = 0

    def integers(self, x: torch.Tensor) -> torch.Tensor:
        """What stands for `x`, as whole numbers in its own dtype; NaN stays NaN. ONNX's QuantizeLinear."""
        return (x / self.scale).round().add(self.zero).clamp(LOWEST, HIGHEST)

    def real(self, q: torch.Tensor) -> torch.Tensor:
        """What integers stand for. ONNX's DequantizeLinear."""
        return (q - self.zero) * self.scale

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """The nearest number of the grid, elementwise, in the dtype of `x`."""
        return self.real(self.integers(x))
