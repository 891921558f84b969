"""Which positions of an axis Resize reads for each position that it makes, and with what weights.

Resize is separable: y[i] = sum over t of weight[i, t] * x[index[i, t]] along one axis after the other, whatever the
mode. Positions are computed in float32, in the order in which ONNX Runtime does, and ties told as it tells them, for
`nearest` depends on both.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from optgraph.base.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

COORDINATES = (
    *("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel"),
    *("align_corners", "asymmetric", "tf_crop_and_resize"),
)
_TIE = 1e-6  # what is as near to a tie is one: float32 does not tell
MODES = ("nearest", "linear", "cubic")
ROUNDINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda at: np.ceil(at.astype(np.float64) - 0.5 - _TIE),
    "round_prefer_ceil": lambda at: np.floor(at.astype(np.float64) + 0.5 + _TIE),
}


@dataclass(frozen=True)
class Taps:
    """Along one axis: index and weight [out, taps], and whether a position lies inside the image, [out]."""

    index: np.ndarray
    weight: np.ndarray
    inside: np.ndarray


@dataclass(frozen=True)
class Interpolation:
    """What the attributes of ONNX Resize of the same names say."""

    mode: str
    coordinates: str
    nearest: str
    cubic: float
    exclude_outside: bool
    antialias: bool

    def taps(self, size: int, out: int, scale: float, roi: tuple[float, float]) -> Taps:
        """Of an axis of `size` that becomes one of `out`; scale is that of the coordinates, roi a begin and an end as
        parts of the axis."""
        at = self._positions(size, out, np.float32(scale), roi)
        inside = (at >= 0) & (at <= size - 1)
        if self.mode == "nearest":
            index = ROUNDINGS[self.nearest](at)[:, None]
            weight = np.ones(index.shape)
        else:
            index, weight = self._weighted(at, float(np.float32(scale)))
            if self.exclude_outside:
                weight = weight * ((index >= 0) & (index < size))
                weight = weight / weight.sum(1, keepdims=True)
        return Taps(index.clip(0, size - 1).astype(np.int64), weight, inside)

    def _positions(self, size: int, out: int, scale: np.float32, roi: tuple[float, float]) -> np.ndarray:
        """Where in x each position of the output lies."""
        i, half = np.arange(out, dtype=np.float32), np.float32(0.5)
        centre = (i + half) / scale - half
        match self.coordinates:
            case "half_pixel":
                return centre
            case "pytorch_half_pixel":
                return centre if out > 1 else np.zeros(out, np.float32)
            case "half_pixel_symmetric":
                adjustment = np.float32(out) / (scale * np.float32(size))
                offset = np.float32(size) * half * (np.float32(1) - adjustment)
                return (offset + (i + half) / scale) - half
            case "asymmetric":
                return i / scale
            case "align_corners":
                return i * np.float32(size - 1) / np.float32(max(out - 1, 1))
            case "tf_crop_and_resize":
                begin, end, last = np.float32(roi[0]), np.float32(roi[1]), np.float32(size - 1)
                if out == 1:
                    return half * (begin + end) * last + np.zeros(1, np.float32)
                return begin * last + i * (end - begin) * last / np.float32(out - 1)
        raise ModelError(f"unknown coordinates '{self.coordinates}'")

    def _weighted(self, at: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
        """Of a linear or cubic filter, which antialiasing makes wider as the image shrinks."""
        reach = 1.0 if self.mode == "linear" else 2.0
        shrunk = min(scale, 1.0) if self.antialias else 1.0
        first = np.floor(at - reach / shrunk + 1) if shrunk < 1 else np.floor(at) - (reach - 1)
        count = int(np.ceil(2 * reach / shrunk)) + (shrunk < 1)
        index = first[:, None].astype(np.int64) + np.arange(count)
        weight = self._filter((index - at[:, None].astype(np.float64)) * shrunk)
        return index, weight / weight.sum(1, keepdims=True)

    def _filter(self, distance: np.ndarray) -> np.ndarray:
        d: np.ndarray = np.abs(distance)
        a = self.cubic
        if self.mode == "linear":
            return (1 - d).clip(0)
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def interpolated(x: Tensor, axis: int, taps: Taps) -> Tensor:
    """x along `axis`."""
    import torch

    index, weight = torch.tensor(taps.index, device=x.device), torch.tensor(taps.weight, device=x.device)
    if index.shape[1] == 1 and bool((taps.weight == 1).all()):
        return x.index_select(axis, index[:, 0])
    shape = [-1 if i == axis else 1 for i in range(x.ndim)]
    terms = (x.index_select(axis, index[:, t]) * weight[:, t].to(x.dtype).reshape(shape) for t in range(index.shape[1]))
    return functools.reduce(operator.add, terms)
