"""Tensor maps, and the copies that Hopper's copy engine (TMA) makes by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tests.emulator.memory import Allowed, window
from tests.emulator.number_types import WORD, Array


@dataclass(frozen=True)
class TensorMap:
    """What cuTensorMapEncodeTiled encoded. sizes, box: innermost dimension first. strides: bytes, of all dimensions but
    the first. swizzle: bits of it, 0 to 3."""

    item: int
    address: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    swizzle: int

    @property
    def extent(self) -> int:
        """Up to its last element's first byte, that included."""
        strides = (self.item, *self.strides)
        return 1 + sum((size - 1) * stride for size, stride in zip(self.sizes, strides, strict=True))

    def fetch(self, corner: Sequence[int], regions: Allowed) -> Array:
        """The bytes of the box at `corner`, zeros beyond the tensor's edges; the innermost dimension is contiguous."""
        out = np.zeros(self.box[::-1], WORD[self.item])
        low = [max(0, -at) for at in corner]
        high = [min(box, size - at) for box, size, at in zip(self.box, self.sizes, corner, strict=True)]
        extent = [h - lo for lo, h in zip(low, high, strict=True)]
        if min(extent) > 0:
            strides = (self.item, *self.strides)
            start = self.address + sum((at + lo) * s for at, lo, s in zip(corner, low, strides, strict=True))
            rows = start + sum(
                np.arange(n, dtype=np.int64).reshape(-1, *(1,) * k) * s
                for k, (n, s) in enumerate(zip(extent, strides, strict=True))
            )
            regions.check(np.asarray(rows).astype(np.uint64).reshape(-1), self.item, write=False)
            part = tuple(slice(lo, h) for lo, h in zip(low[::-1], high[::-1], strict=True))
            out[part] = window(start, extent[::-1], strides[::-1], self.item)
        return out.reshape(-1).view(np.uint8)
