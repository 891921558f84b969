"""Step tune: what is fastest of each launch of the three networks in fp16, the tile and one launch or several, as
`optgraph tune` finds it."""

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
from optgraph.tune.subjects import subjects

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
        yield from tune.dry(subjects(fused(name), DTYPE, PLANNED_BATCHES, target), target)


def tasks() -> Iterator[Task]:
    here = bench()

    def records() -> Record:
        kept = read(tuned.path(here.target))
        return kept.get("records", {}) if kept.get("identity") == identity() else {}

    for name in record.NETWORKS:
        for key, run in tune.tasks(fused(name), DTYPE, PLANNED_BATCHES, here, records):
            yield Task(key, lambda run=run: right(run()), SECONDS)


def right(found: Record) -> Record:
    """Raises WrongError for a launch of which no tile computes the right thing, or a fusion of which no way does."""
    if "us" not in found:
        raise WrongError(f"none is right: {'; '.join(found['rejected'][:2])}")
    return found
