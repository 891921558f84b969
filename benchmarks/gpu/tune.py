"""Step tune: the fastest tile of each launch of the three networks in fp16, as `optgraph tune` finds it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from benchmarks import record
from benchmarks.cost import fused
from benchmarks.gpu.device import WrongError, bench, settle
from benchmarks.gpu.worker import Record, Task
from optgraph.base.devices import Target
from optgraph.base.store import read
from optgraph.kernels.frame import tuned
from optgraph.kernels.frame.launch import Launch
from optgraph.kernels.frame.tile import PLANNED_BATCHES
from optgraph.tune import tune

__all__ = ["about", "identity", "launches", "settle", "tasks"]

DTYPE = "fp16"
SECONDS = 60.0


def identity() -> dict[str, Any]:
    """As `optgraph tune` has it, for the package reads what is found here."""
    return tune.identity(bench().target)


def about() -> dict[str, Any]:
    return tune.about() | {"carried": os.environ.get("OPTGRAPH_CARRIED", "")}


def launches(target: Target) -> Iterator[Launch]:
    for name in record.NETWORKS:
        for problem, layer in tune.problems(fused(name), DTYPE, PLANNED_BATCHES, target).items():
            yield from tune.dry(problem, layer, target)


def tasks() -> Iterator[Task]:
    here = bench()
    kept = read(tuned.path(here.target))
    done = kept.get("records", {}) if kept.get("identity") == identity() else {}
    for name in record.NETWORKS:
        for key, run in tune.tasks(fused(name), DTYPE, PLANNED_BATCHES, here, done):
            yield Task(key, lambda run=run: with_tile(run()), SECONDS)


def with_tile(found: Record) -> Record:
    """Raises WrongError for a launch of which no tile computes the right thing."""
    if "tile" not in found:
        raise WrongError(f"no tile is right: {'; '.join(found['rejected'][:2])}")
    return found
