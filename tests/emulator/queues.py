"""Work that threads commit in groups and wait for group by group: cp.async, and wgmma."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.emulator.faults import FaultError
from tests.emulator.number_types import Array

Work = Callable[[Array], None]  # does it for the threads of a mask, [blocks, threads]


@dataclass
class _Job:
    """lanes: the threads whose part is not done. group: the number of each one's group."""

    work: Work
    lanes: Array
    group: Array


class Queue:
    """The groups of each thread, and what is not yet done of them."""

    def __init__(self, blocks: int, threads: int) -> None:
        self._committed = np.zeros((blocks, threads), np.int64)
        self._jobs: list[_Job] = []

    def add(self, work: Work, lanes: Array) -> None:
        self._jobs.append(_Job(work, lanes.copy(), self._committed.copy()))

    def commit(self, lanes: Array) -> None:
        self._committed = self._committed + lanes

    def wait(self, lanes: Array, left: int) -> None:
        """Does what these threads have committed, but for the last `left` groups. -1: all, committed or not."""
        for job in self._jobs:
            due = job.lanes & lanes & (job.group < self._committed - left)
            if due.any():
                job.work(due)
                job.lanes &= ~due
        self._jobs = [job for job in self._jobs if job.lanes.any()]

    @property
    def empty(self) -> bool:
        return not self._jobs


class Queues:
    """Of the blocks that run together. products: how many wgmma each warp has executed."""

    def __init__(self, blocks: int, threads: int) -> None:
        self.copies = Queue(blocks, threads)
        self.products = Queue(blocks, threads)
        self.executed = np.zeros((blocks, threads), np.int64)

    def finish(self) -> None:
        """The blocks end."""
        if not self.products.empty:
            raise FaultError("a block ends with products that nobody waited for")
        if self.executed.shape[1] % 128 == 0:
            groups = self.executed.reshape(-1, 128)
            if (groups != groups[:, :1]).any():
                raise FaultError("a wgmma is executed by a part of a warpgroup")
