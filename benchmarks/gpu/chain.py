"""A chain of launches that each need the one before and do next to nothing: what a launch costs in a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from triton.language.extra import cuda

from optgraph.tune.timing import Run

LENGTH = 50


@triton.jit
def _next(counter, EARLY: tl.constexpr):  # noqa: N803
    if EARLY:
        cuda.gdc_wait()  # for all that the launch before wrote
        cuda.gdc_launch_dependents()
    tl.store(counter, tl.load(counter) + 1)


def chain(device: torch.device, early: bool) -> tuple[Run, Callable[[Run], int]]:
    """LENGTH launches, and what counts how many of them took effect in a run. early: the next one is set up while one
    runs, and waits for its end itself."""
    counter = torch.zeros(1, dtype=torch.int32, device=device)

    def run() -> None:
        for _ in range(LENGTH):
            _next[(1,)](counter, EARLY=early, num_warps=1, launch_pdl=early)

    def count(run: Run) -> int:
        counter.zero_()
        run()
        return int(counter.item())

    return run, count
