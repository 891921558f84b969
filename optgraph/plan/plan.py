"""A Plan: everything a run needs, as frozen data. Made by `lower.py`, executed by `runtime.py`.

A buffer is a piece of the arena, a model input or a packed weight; a View is a strided window on one; a Call is one
kernel launch on views. The plan has no tensors in it and needs neither a GPU nor Triton.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ITEMSIZE = (
    {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
    | {"int64": 8, "int32": 4, "int16": 2, "int8": 1}
    | {"uint64": 8, "uint32": 4, "uint16": 2, "uint8": 1, "bool": 1}
)


@dataclass(frozen=True)
class View:
    """A strided window on a buffer. Shape, strides and offset count elements of `dtype`."""

    base: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    offset: int = 0

    def permute(self, *axes: int) -> View:
        return View(
            self.base, tuple(self.shape[a] for a in axes), tuple(self.strides[a] for a in axes), self.dtype, self.offset
        )

    @property
    def nhwc(self) -> View:
        """An N×C×H×W view with its axes in the order kernels take them."""
        return self.permute(0, 2, 3, 1)

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * ITEMSIZE[self.dtype]


@dataclass(frozen=True)
class Packed:
    """A weight as a kernel wants it: `pack` ('module:function') of the named constants ('' gives None)."""

    pack: str
    sources: tuple[str, ...]
    dtype: str
    options: Mapping[str, Any] = field(default_factory=dict)
    precision: str = "ieee"  # "tf32": rounded to what tensor cores multiply


@dataclass(frozen=True)
class Call:
    """One launch: `kernel` is the launcher as 'module:function', called with the views' tensors and the options.

    A keyword in `writes` is an output, in `reads` an activation, in `weights` a packed constant ('': None).
    A tuple of views is passed as a tuple of tensors.
    """

    kernel: str
    node: str
    reads: Mapping[str, View]
    writes: Mapping[str, View | tuple[View, ...]]
    weights: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The kernel's short name, as reports show it."""
        return self.kernel.rpartition(":")[2]

    def written(self) -> list[View]:
        views: list[View] = []
        for view in self.writes.values():
            views.extend(view if isinstance(view, tuple) else (view,))
        return views


@dataclass(frozen=True)
class Fallback:
    """A node that has no kernel (or not for this use), and why."""

    node: str
    op: str
    reason: str


@dataclass(frozen=True)
class Schedule:
    """When each call runs, in the order of `Plan.calls`, which is one way to run them.

    wave: calls of one may run at the same time. stream: calls of one run in their order. waits: the calls on other
    streams that one begins after; with these, any order gives the same results.
    """

    wave: tuple[int, ...]
    stream: tuple[int, ...]
    waits: tuple[tuple[int, ...], ...]

    @property
    def streams(self) -> int:
        return max(self.stream, default=0) + 1


@dataclass(frozen=True)
class Plan:
    """For one batch size and dtype. `offsets`: arena byte offset of each buffer; `results`: where each region's
    values are right after its last call, by graph value."""

    batch: int
    dtype: str
    arena_bytes: int
    offsets: Mapping[str, int]
    inputs: Mapping[str, View]
    outputs: Mapping[str, View]
    packed: Mapping[str, Packed]
    calls: tuple[Call, ...]
    schedule: Schedule
    results: Mapping[str, View]
    fallbacks: tuple[Fallback, ...] = ()

    @property
    def waves(self) -> int:
        """How many waves the calls form: the launches on the critical path."""
        return max(self.schedule.wave, default=-1) + 1

    def launches_by_kernel(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for call in self.calls:
            counts[call.name] = counts.get(call.name, 0) + 1
        return dict(sorted(counts.items()))
