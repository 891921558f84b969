"""Grids: the real numbers that int8 can stand for.

    real = (q - zero) * scale        q = clamp(round(real / scale) + zero, -128, 127), of two nearest the even one

A graph holds real numbers throughout; that some lie on a grid is what lets lowering store them as int8. A uint8 grid of
ONNX is the same one 128 lower: (u - z) * s = ((u - 128) - (z - 128)) * s.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

LOWEST, HIGHEST = -128, 127
LEAST_SCALE = 2.0**-126  # smaller float32s are no normal ones, which not all hardware divides by


@dataclass(frozen=True)
class Quant:
    """One grid for a whole tensor. `scale` is a normal float32 above zero, `zero` the integer that stands for 0."""

    scale: float
    zero: int = 0

    def integers(self, x: torch.Tensor) -> torch.Tensor:
        """What stands for `x`, as whole numbers in its own dtype; NaN stays NaN. ONNX's QuantizeLinear."""
        # A tensor, for on a GPU torch multiplies by the reciprocal of a number.
        return (x / x.new_tensor(self.scale)).round().add(self.zero).clamp(LOWEST, HIGHEST)

    def real(self, q: torch.Tensor) -> torch.Tensor:
        """What integers stand for. ONNX's DequantizeLinear."""
        return (q - self.zero) * self.scale

    def keeps(self, number: float) -> bool:
        """Whether `number` lies on it, but for what float32 rounds: 255 steps of 6/255 are 6."""
        if not math.isfinite(number):
            return False
        steps = min(max(round(number / self.scale), LOWEST - self.zero), HIGHEST - self.zero)
        return math.isclose(steps * self.scale, number, rel_tol=1e-6)

    @property
    def ends(self) -> tuple[float, float]:
        """Its least and its largest number."""
        return (LOWEST - self.zero) * self.scale, (HIGHEST - self.zero) * self.scale

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """The nearest number of the grid, elementwise, in the dtype of `x`; those of 16 bits are rounded once."""
        wide = x.float() if x.itemsize == 2 else x
        return self.real(self.integers(wide)).to(x.dtype)


@dataclass(frozen=True)
class Grid:
    """That of a constant, which was integers in the file that it came from.

    Attributes:
        dtype: of the integers: 'int8', 'uint8', or 'int32' of a bias.
        scale: one for all, or one an index of `axis`; normal float32s above zero.
        zero: as many integers, which stand for 0.
        axis: of the constant, not negative.
    """

    dtype: str
    scale: tuple[float, ...]
    zero: tuple[int, ...]
    axis: int = 0

    def spread(self, numbers: Sequence[float], rank: int) -> np.ndarray:
        """`scale` or `zero`, in float64, to broadcast with the constant."""
        vector = np.array(numbers, np.float64)
        return vector.reshape([-1 if i == self.axis else 1 for i in range(rank)]) if len(numbers) > 1 else vector

    def integers(self, array: np.ndarray) -> np.ndarray | None:
        """What stands for `array`; None if that does not lie on the grid."""
        scale, zero = self.spread(self.scale, array.ndim), self.spread(self.zero, array.ndim)
        with np.errstate(all="ignore"):
            numbers = np.round(array.astype(np.float64) / scale) + zero
        limits = np.iinfo(self.dtype)
        if not ((numbers >= limits.min) & (numbers <= limits.max)).all():
            return None
        # Whole numbers of over 24 bits were rounded on their way here, as the scale of a product is.
        near = np.isclose(
            (numbers - zero) * scale, array.astype(np.float64), rtol=2.0**-9 if array.itemsize == 2 else 1e-6, atol=0
        )
        return numbers.astype(self.dtype) if near.all() else None

    @cached_property
    def symmetric(self) -> bool:
        """Whether its integers, as int8, are in proportion to what they stand for."""
        middle = {"int8": 0, "uint8": 128}.get(self.dtype)
        return all(zero == middle for zero in self.zero)

    @cached_property
    def _text(self) -> str:
        digest = hashlib.blake2b(repr((self.scale, self.zero)).encode(), digest_size=8).hexdigest()
        return f"Grid({self.dtype}, {len(self.scale)} scales {digest}, axis {self.axis})"

    def __repr__(self) -> str:
        """Short, for weights are told apart by it, and different for different grids."""
        return self._text

    def permuted(self, perm: Sequence[int]) -> Grid:
        """That of the constant with axis perm[i] in the place of i."""
        return replace(self, axis=list(perm).index(self.axis)) if len(self.scale) > 1 else self
