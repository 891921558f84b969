"""A Plan: everything a run needs, as frozen data. Made by `lowering.py`, executed by `optgraph.run`.

A buffer is a piece of the arena, a model input or a packed weight; a View is a strided window on one; a Call is one
kernel launch on views. The plan has no tensors in it and needs neither a GPU nor Triton.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from optgraph.base.devices import Target
from optgraph.ir.quant import Quant
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.tree import leaves
from optgraph.kernels.frame.view import View


@dataclass(frozen=True)
class Packed:
    """A weight as a kernel wants it: `pack` of the named constants ('' gives None), with the options."""

    pack: Callable[..., Any]
    sources: tuple[str, ...]
    dtype: str
    options: Mapping[str, Any] = field(default_factory=dict)
    precision: str = "ieee"  # "tf32": rounded to what tensor cores multiply

    @property
    def key(self) -> str:
        """Equal for equal weights."""
        what = f"{self.pack.__module__}.{self.pack.__qualname__}({', '.join(self.sources)})"
        return f"{what} {self.dtype} {self.precision} {dict(self.options)}"


@dataclass(frozen=True)
class Weight:
    """Where a call takes a packed weight, by its key in the plan."""

    key: str


@dataclass(frozen=True)
class Call:
    """One launch: the kernel's launcher is called with `arguments`, in which a tensor stands for each View and Weight,
    those in tuples, prologues and epilogues included. `outputs` names the arguments that it writes."""

    kernel: Kernel
    node: str
    arguments: Mapping[str, Any]
    outputs: tuple[str, ...] = ("out",)

    @property
    def name(self) -> str:
        """The kernel's short name, as reports show it."""
        return self.kernel.name

    @cached_property
    def reads(self) -> dict[str, View]:
        """The activations that it reads, by path: 'x', 'after.residual'."""
        names = self.arguments.keys() - set(self.outputs)
        return {path: leaf for path, leaf in self._leaves(names) if isinstance(leaf, View)}

    @cached_property
    def written(self) -> list[View]:
        """Where it writes."""
        return [leaf for _, leaf in self._leaves(self.outputs)]

    def views(self) -> tuple[View, ...]:
        """All that it reads and writes."""
        return (*self.reads.values(), *self.written)

    @property
    def weights(self) -> dict[str, Weight]:
        """The packed weights that it reads, by path: 'weight', 'after.bias'."""
        return {path: leaf for path, leaf in self._leaves(self.arguments) if isinstance(leaf, Weight)}

    def _leaves(self, names: Collection[str]) -> Iterator[tuple[str, Any]]:
        for name, tree in self.arguments.items():
            if name in names:
                yield from leaves(name, tree)


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

    @cached_property
    def chained(self) -> tuple[bool, ...]:
        """Which calls begin after nothing but the one before them on their stream. From sm_90 on, such a call may be
        launched while that one still runs (see `kernels/jit/dependence.py`)."""
        begun: set[int] = set()
        found = []
        for stream, waits in zip(self.stream, self.waits, strict=True):
            found.append(stream in begun and not waits)
            begun.add(stream)
        return tuple(found)

    def part(self, start: int, stop: int) -> Schedule:
        """That of the calls [start, stop) alone, all those before them done."""
        waits = tuple(tuple(j - start for j in calls if j >= start) for calls in self.waits[start:stop])
        return Schedule(self.wave[start:stop], self.stream[start:stop], waits)


@dataclass(frozen=True)
class Plan:
    """What a run launches, and on what memory, for one batch size, dtype and target.

    Attributes:
        batch: how many images it is for.
        dtype: how kernels store numbers, and what they multiply in.
        target: the GPU that tiles were chosen for.
        arena_bytes: of all activations together.
        offsets: in bytes, where each buffer is in the arena.
        inputs: name -> where the network's input is.
        outputs: name -> where it is after the last call, or the constant that it is.
        packed: the weights as kernels want them, by key.
        calls: the launches, in one order that is right.
        schedule: which of them may run at the same time.
        results: graph value -> where a region's values are right after its last call.
        grids: graph value -> its grid, of those that are stored as int8.
        fallbacks: nodes without a kernel, and why.
    """

    batch: int
    dtype: str
    target: Target
    arena_bytes: int
    offsets: Mapping[str, int]
    inputs: Mapping[str, View]
    outputs: Mapping[str, View | Weight]
    packed: Mapping[str, Packed]
    calls: tuple[Call, ...]
    schedule: Schedule
    results: Mapping[str, View]
    grids: Mapping[str, Quant] = field(default_factory=dict)
    fallbacks: tuple[Fallback, ...] = ()

    @property
    def waves(self) -> int:
        """How many waves the calls form: the launches on the critical path."""
        return max(self.schedule.wave, default=-1) + 1

    def launches_by_kernel(self) -> dict[str, int]:
        """How many launches there are of each kernel, by its name."""
        counts: dict[str, int] = {}
        for call in self.calls:
            counts[call.name] = counts.get(call.name, 0) + 1
        return dict(sorted(counts.items()))
