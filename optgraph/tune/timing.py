"""Timing on a GPU: short runs as CUDA graphs, replayed in blocks, the sides in turns.

A replay costs the host nothing that shows, and a block is long against the clock's grain; what drifts, such as the
chip's clock, drifts for all sides alike. The timer is passed in, so that all of this but `cuda_timer` and `captured`
runs, and is tested, with no GPU.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

Run = Callable[[], object]
Timer = Callable[[Run, int], float]  # milliseconds that one of so many runs in a row takes
Key = TypeVar("Key")

WARM_UPS = 3
BLOCK_MS = 5.0


@dataclass(frozen=True)
class Times:
    """Milliseconds of a run, over blocks: median, extremes and interquartile range."""

    median: float
    min: float
    max: float
    iqr: float
    blocks: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Times:
        """Of the blocks that took `values`."""
        first, third = np.percentile(values, (25, 75))
        return cls(statistics.median(values), min(values), max(values), float(third - first), len(values))


def cuda_timer(run: Run, repeats: int) -> float:
    """By CUDA events around `repeats` runs on the current stream."""
    event: Any = torch.cuda.Event
    start, end = event(enable_timing=True), event(enable_timing=True)
    start.record()
    for _ in range(repeats):
        run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / repeats


def captured(run: Run, times: int = 1) -> Run:
    """The replay of a CUDA graph that holds `times` runs, after a few on a stream of their own.

    `run` always uses the same memory, does not synchronise, and has nothing left to compile or choose afterwards.
    """
    cuda: Any = torch.cuda
    stream = cuda.Stream()
    stream.wait_stream(cuda.current_stream())
    with cuda.stream(stream):
        for _ in range(WARM_UPS):
            run()
    cuda.synchronize()
    graph = cuda.CUDAGraph()
    with cuda.graph(graph):
        for _ in range(times):
            run()
    replay: Run = graph.replay
    return replay


def interleaved(sides: Mapping[Key, Run], timer: Timer, blocks: int, block_ms: float = BLOCK_MS) -> dict[Key, Times]:
    """Times `blocks` blocks of runs of each side, in turns that begin with another side each round.

    A block is as many runs as take `block_ms`, so that each side gets the same share of the time.
    """
    repeats = {}
    for key, run in sides.items():
        timer(run, WARM_UPS)
        repeats[key] = max(1, math.ceil(block_ms / max(timer(run, WARM_UPS), 1e-6)))
    found: dict[Key, list[float]] = {key: [] for key in sides}
    order = list(sides)
    for _ in range(blocks):
        for key in order:
            found[key].append(timer(sides[key], repeats[key]))
        order.append(order.pop(0))
    return {key: Times.of(values) for key, values in found.items()}
