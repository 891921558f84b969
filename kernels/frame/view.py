"""A View: where a tensor is, without the tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from optgraph.base.dtypes import ITEMSIZE


@dataclass(frozen=True)
class View:
    """A strided window on a buffer. Shape, strides and offset count elements of `dtype`."""

    base: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    offset: int = 0

    @classmethod
    def whole(cls, base: str, shape: Sequence[int], dtype: str) -> View:
        """All of a buffer, contiguous."""
        return cls(base, tuple(shape), contiguous(shape), dtype)

    def permute(self, *axes: int) -> View:
        shape, strides = (tuple(sizes[axis] for axis in axes) for sizes in (self.shape, self.strides))
        return View(self.base, shape, strides, self.dtype, self.offset)

    def part(self, axis: int, start: int, size: int) -> View:
        """`size` places of an axis, from `start` on: a range of channels, say."""
        shape = (*self.shape[:axis], size, *self.shape[axis + 1 :])
        return replace(self, shape=shape, offset=self.offset + start * self.strides[axis])

    def split(self, axis: int, inner: int) -> View:
        """The axis as two, the second of `inner` places."""
        size, stride = self.shape[axis], self.strides[axis]
        shape = (*self.shape[:axis], size // inner, inner, *self.shape[axis + 1 :])
        return replace(self, shape=shape, strides=(*self.strides[:axis], stride * inner, *self.strides[axis:]))

    def reshaped(self, shape: Sequence[int]) -> View | None:
        """The same elements in the same order as another shape; None if that is no view."""
        if not self.bytes:
            return replace(self, shape=tuple(shape), strides=contiguous(shape))
        left: list[tuple[int, int]] = []  # axes, as few as may be
        for size, stride in zip(self.shape, self.strides, strict=True):
            if left and left[-1][1] == size * stride:
                left[-1] = (left[-1][0] * size, stride)
            elif size != 1:
                left.append((size, stride))
        found: list[int] = []
        for size in reversed(shape):
            if size == 1:  # never used; the next one's keeps the view regular
                found.append(found[-1] if found else 1)
                continue
            have, stride = left.pop()
            if have % size:
                return None
            found.append(stride)
            if have > size:
                left.append((have // size, stride * size))
        return replace(self, shape=tuple(shape), strides=tuple(reversed(found)))

    @property
    def nhwc(self) -> View:
        """An N×C×H×W view with its axes in the order kernels take them."""
        return self.permute(0, 2, 3, 1)

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * ITEMSIZE[self.dtype]


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of a contiguous tensor."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
