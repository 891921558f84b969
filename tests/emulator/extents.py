"""What a launch may touch of tensors that are too large for a map of every byte: by their sizes and strides alone."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from tests.emulator.faults import FaultError
from tests.emulator.memory import Tensor, require_aligned_to
from tests.emulator.number_types import Array


class Extents:
    """As Regions. Strides must be nested: an index of a dimension moves further than all of the inner ones together.

    written: of each writable tensor, from where to where, in bytes from its first one.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._tensors = [(tensor, *_nested(tensor)) for tensor in tensors if 0 not in tensor.shape]
        self.written: dict[Tensor, tuple[int, int]] = {}

    def check(self, address: Array, size: int, write: bool) -> None:
        """Raises FaultError if an access of `size` bytes at one of the addresses is misaligned or not allowed."""
        require_aligned_to(address, size)
        left = address.reshape(-1).astype(np.int64)
        for tensor, dimensions, run in self._tensors:
            if left.size and (tensor.writable or not write):
                offset = left - tensor.address
                inside = _inside(offset, size, dimensions, run)
                left = left[~inside]
                if write and inside.any():
                    low, high = self.written.get(tensor, (1 << 63, 0))
                    self.written[tensor] = (
                        min(low, int(offset[inside].min())),
                        max(high, int(offset[inside].max()) + size),
                    )
        if left.size:
            what, spans = "write" if write else "read", ", ".join(_shown(tensor) for tensor, _, _ in self._tensors)
            where = f"{int(left[0]):#x} and {left.size - 1} more"
            raise FaultError(f"{what} of {size} bytes outside of the launch's tensors at {where}; they are in {spans}")

    def _note(self, tensor: Tensor, offset: Array, size: int) -> None:
        first, last = int(offset.min()), int(offset.max()) + size
        low, high = self.written.get(tensor, (first, last))
        self.written[tensor] = min(low, first), max(high, last)


def _nested(tensor: Tensor) -> tuple[list[tuple[int, int]], int]:
    """Sizes and strides, the outermost first, and how many bytes lie side by side."""
    pairs = zip(tensor.strides, tensor.shape, strict=True)
    found: list[tuple[int, int]] = []
    run = reach = tensor.item
    for stride, size in sorted((stride, size) for stride, size in pairs if size > 1 and stride):
        if stride < reach:
            raise ValueError(f"{tensor} overlaps itself")
        if stride == run and not found:
            run *= size
        else:
            found.append((size, stride))
        reach += (size - 1) * stride
    return found[::-1], run


def _inside(offset: Array, size: int, dimensions: list[tuple[int, int]], run: int) -> Array:
    """Of bytes from a tensor's first."""
    good = offset >= 0
    for count, stride in dimensions:
        index = offset // stride
        good &= index < count
        offset = offset - index * stride
    return np.asarray(good & (offset + size <= run))


def _shown(tensor: Tensor) -> str:
    low, high = tensor.span()
    return f"{low:#x}..{high:#x}"
