"""The launches of a run timed on a GPU: each by itself, in the order of the run, from one CUDA event to the next.

The GPU must have all of them before it begins the first: else it waits for the host in between, and the host's time is
what is measured. So a kernel that does nothing but wait goes first, for as long as it takes, which the first event
tells: if it is over when the last launch is enqueued, the wait was too short.

An event's grain is about half a microsecond, and a launch with events around it does not begin before the one before
has ended, as it may in a CUDA graph: the sum of these times is more than a replay takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import torch

from optgraph.run.context import Context

AT_ONCE = 256  # launches after one wait: a queue takes about a thousand before the host has to wait for the GPU
SHORTEST, LONGEST = 1e-3, 0.25  # of that wait, seconds
CLOCK = 2e9  # ticks a second, of the fastest chips: on others the wait is longer


@dataclass(frozen=True)
class Turns:
    """Seconds of each launch, by run. ahead: whether the GPU had all launches after a wait before that was over."""

    seconds: tuple[tuple[float, ...], ...]
    ahead: bool


def in_turn(context: Context, runs: int, names: Sequence[str] = ()) -> Turns:
    """Times the launches in `runs` runs on what the inputs hold, after runs to warm up and to find how long to wait.

    The context's kernels are compiled: it has run. names: of the launches, for NVTX ranges around them.
    """
    wait = SHORTEST
    while not _run(context, wait)[1] and wait < LONGEST:
        wait *= 2
    found = []
    for i in range(runs):
        with _range(f"optgraph run {i + 1} of {runs}" if names else ""):
            found.append(_run(context, 2 * wait, names))
    return Turns(tuple(tuple(seconds) for seconds, _ in found), all(ahead for _, ahead in found))


def _run(context: Context, wait: float, names: Sequence[str] = ()) -> tuple[list[float], bool]:
    """Seconds of each launch, and whether the host was ahead of the GPU."""
    cuda: Any = torch.cuda
    seconds: list[float] = []
    ahead, steps = True, context.steps()
    for piece in _pieces(context.kernels):
        begin, *ends = events = [cuda.Event(enable_timing=True) for _ in range(len(piece) + 1)]
        kernels = context.kernels[piece.start]
        if kernels:
            cuda._sleep(int(wait * CLOCK))
        begin.record()
        for i, end in zip(piece, ends, strict=True):
            with _range(names[i] if names else ""):
                next(steps)
            end.record()
        ahead = ahead and not (kernels and begin.query())
        events[-1].synchronize()
        seconds += [before.elapsed_time(after) / 1e3 for before, after in pairwise(events)]
    return seconds, ahead


def _pieces(kernels: Sequence[bool]) -> Iterator[range]:
    """The places of launches that are enqueued together; what is no kernel, as a fallback, is by itself, for it may
    wait for the GPU."""
    for kernel, group in groupby(range(len(kernels)), key=kernels.__getitem__):
        places = list(group)
        size = AT_ONCE if kernel else 1
        for start in range(places[0], places[-1] + 1, size):
            yield range(start, min(start + size, places[-1] + 1))


@contextmanager
def _range(name: str) -> Iterator[None]:
    """An NVTX range, which Nsight Systems shows over the launches enqueued in it; nothing without a name."""
    if not name:
        yield
        return
    torch.cuda.nvtx.range_push(name)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        torch.cuda.nvtx.range_pop()  # type: ignore[no-untyped-call]
