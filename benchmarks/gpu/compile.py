"""Step compile: the races with torch.compile at its most thorough. It compiles for minutes: a call of its own.

What it has compiled is kept in TORCHINDUCTOR_CACHE_DIR, with which the next call goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks import record
from benchmarks.gpu.race import BATCHES, COMPILED, about, identity, races, settle
from benchmarks.gpu.worker import Task

__all__ = ["about", "identity", "settle", "tasks"]

SECONDS = 500.0


def tasks(folder: Path = record.MODELS) -> Iterator[Task]:
    yield from races(COMPILED, BATCHES, folder, SECONDS)
