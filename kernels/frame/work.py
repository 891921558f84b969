"""What a launch does, as the launch itself says: bytes of memory touched, and multiply-adds.

An operand counts once: reading it again meets a cache. What a stride passes over does not count, but a GPU reads whole
sectors of 32 bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import torch

from optgraph.ir.values import Window

_SECTOR = 32  # bytes: the least a GPU reads
_WORTH = 2**20  # pieces to look at one by one; of more, none is taken to share a sector or to leave a gap


@dataclass(frozen=True)
class Read:
    """An operand, all of it; or, of images [N, H, W, C], the pixels that windows touch, `out` of them a side."""

    tensor: torch.Tensor
    window: Window | None = None
    out: tuple[int, int] = (0, 0)

    @property
    def bytes(self) -> int:
        t = self.tensor
        return read_bytes(tuple(t.shape), t.stride(), int(t.storage_offset()), t.element_size(), self._positions())

    def _positions(self) -> dict[int, Sequence[int]]:
        """The rows (axis 1) and columns (axis 2) that windows touch."""
        if self.window is None:
            return {}
        w, shape = self.window, self.tensor.shape
        sides = zip(self.out, w.kernel, w.stride, w.pads[:2], w.dilation, strict=True)
        return {axis: touched(shape[axis], *side) for axis, side in enumerate(sides, start=1)}


@dataclass(frozen=True)
class Program:
    """One program of a launch: bytes that it fetches and stores, FLOPs of its padded tile on the tensor cores, and
    those of a window reduced on the CUDA cores.

    waits: loads that it waits for one after another, with nothing else to do.  resident: programs that an SM holds at
    once, 0 where the tile tells.  steps: how often its main loop goes round, 0 for as often as fetches its bytes.
    rows: how often a loop within goes round each time.  clocks: that it takes by itself, 0 where the tile tells.
    """

    bytes: float
    product: float = 0.0
    window: float = 0.0
    waits: int = 0
    resident: int = 0
    steps: int = 0
    rows: int = 1
    clocks: float = 0.0


@dataclass(frozen=True)
class Work:
    """What one launch does.

    reads, writes:  its activations.
    weights:        its constants by name; the matrices are those of more than one dimension.
    program:        what one of its programs does; None: all share the bytes and FLOPs alike.
    cuda_cores:     whether its products run there, and not on the tensor cores.
    effort:         how long a tap takes, in those of a window before a product.
    steps, waits:   of a program, if `program` is None (see there).
    terms:          how many numbers the longest of its sums has, if that is no product with a weight.
    """

    reads: Sequence[Read]
    writes: Sequence[torch.Tensor]
    weights: Mapping[str, torch.Tensor | None] = field(default_factory=dict)
    program: Program | None = None
    cuda_cores: bool = False
    terms: int = 1
    effort: float = 1.0
    steps: int = 0
    waits: int = 0

    @cached_property
    def read(self) -> int:
        """Activation bytes."""
        return sum(read.bytes for read in self.reads)

    @cached_property
    def written(self) -> int:
        """Activation bytes. Whole: parts of a sector that several launches write meet in the cache."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.writes)

    @property
    def moved(self) -> int:
        """Activation bytes, read and written."""
        return self.read + self.written

    @cached_property
    def weight_bytes(self) -> int:
        """Bytes of its constants."""
        return sum(w.numel() * w.element_size() for w in self.weights.values() if w is not None)

    @cached_property
    def flops(self) -> dict[str, int]:
        """Of the product with each weight matrix: it meets every pixel of the output once; padding counts as pixels."""
        pixels = math.prod(self.writes[0].shape[:-1])
        return {name: 2 * pixels * w.numel() for name, w in self.weights.items() if w is not None and w.dim() > 1}

    @property
    def longest_sum(self) -> int:
        """How many terms it has."""
        depths = [math.prod(w.shape[:-1]) for w in self.weights.values() if w is not None and w.dim() > 1]
        return max([self.terms, *depths])

    def of_program(self, count: int) -> Program:
        """What each of `count` programs does."""
        if self.program is not None:
            return self.program
        flops = sum(self.flops.values()) / count
        moved = (self.moved + self.weight_bytes) / count
        product, window = (0.0, flops * self.effort) if self.cuda_cores else (flops, 0.0)
        return Program(moved, product, window, self.waits, steps=self.steps)


class Ends(Protocol):
    """What a launch does before or after its own work."""

    @property
    def vectors(self) -> Mapping[str, torch.Tensor | None]: ...

    @property
    def reads(self) -> Sequence[Read]: ...


def work_of(
    x: torch.Tensor,
    out: torch.Tensor,
    window: Window | None,
    weights: Mapping[str, torch.Tensor | None],
    ends: Sequence[Ends],
    program: Program | None = None,
) -> Work:
    """Of a launch that makes out of x [N, H, W, C], by `window` or whole, with these weights and ends."""
    reads = [Read(x, window, (out.shape[1], out.shape[2]))]
    vectors = {name: vector for end in ends for name, vector in end.vectors.items()}
    return Work([*reads, *(read for end in ends for read in end.reads)], (out,), {**weights, **vectors}, program)


def touched(size: int, windows: int, kernel: int, stride: int, before: int, dilation: int) -> Sequence[int]:
    """Positions of an axis of `size` that some of `windows` windows reads, the first beginning `before` the axis."""
    last = (windows - 1) * stride - before  # where the last window begins
    if kernel == 1:
        return range(-before % stride, min(last, size - 1) + 1, stride)
    if dilation == 1 and kernel >= stride:
        return range(min(last + kernel, size))
    if windows * kernel > _WORTH:
        return range(size)
    starts = range(-before, last + 1, stride)
    return sorted({p for start in starts for tap in range(kernel) if 0 <= (p := start + tap * dilation) < size})


def read_bytes(
    shape: Sequence[int],
    strides: Sequence[int],
    offset: int,
    itemsize: int,
    positions: Mapping[int, Sequence[int]],
) -> int:
    """Bytes that a read of a strided tensor touches, at some positions of an axis or, by default, at all: of pieces
    that lie apart the sectors they are in. The first image stands for the others."""
    axes = [
        (stride, positions.get(axis, range(size)))
        for axis, (size, stride) in enumerate(zip(shape, strides, strict=True))
        if axis > 0 and size != 1 and stride != 0  # along a stride of 0 it is the same again
    ]
    axes.sort(key=lambda axis: axis[0])
    images, run = math.prod(shape[:1]) if strides[:1] != (0,) else 1, 1  # run: values that follow one another
    while axes and axes[0][0] == run and axes[0][1] and axes[0][1][-1] - axes[0][1][0] < len(axes[0][1]):
        run *= len(axes.pop(0)[1])
    pieces = math.prod(len(found) for _, found in axes)
    if not axes or pieces > _WORTH:
        return images * pieces * run * itemsize
    starts = np.array([offset])
    for stride, found in axes:
        starts = np.add.outer(stride * np.array(found, np.int64), starts).ravel()
    starts.sort()
    first, last = starts * itemsize // _SECTOR, ((starts + run) * itemsize - 1) // _SECTOR
    counted = np.concatenate(([-1], last[:-1])) + 1  # the first sector that the pieces before leave
    return images * int((last + 1 - np.maximum(first, counted)).clip(0).sum()) * _SECTOR
