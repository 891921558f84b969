"""A host and a GPU that take time, without either: what torch's events, and the kernel that only waits, then tell.

The GPU begins what it is given when it is done with all before, and not before it is given. The host waits for it where
it synchronises, and where its queue is full.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

TICKS = 1.7e9  # a second
QUEUE = 1024  # what the GPU may be given before it is done


class GpuClock:
    """host, gpu: the time, in seconds, when each is done with what it was given. Patches torch.cuda.

    ranges: NVTX ranges begun and ended, in order.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.host = self.gpu = 0.0
        self.ranges: list[str] = []
        self.waits = 0  # kernels that only wait, so far
        self._queue: list[float] = []
        patch.setattr(torch.cuda, "Event", lambda **options: Event(self, **options))
        patch.setattr(torch.cuda, "_sleep", self._sleep, raising=False)
        patch.setattr(torch.cuda.nvtx, "range_push", lambda name: self.ranges.append(name))
        patch.setattr(torch.cuda.nvtx, "range_pop", lambda: self.ranges.append("end"))

    def give(self, seconds: float, host: float = 1e-6) -> float:
        """Has the GPU do what takes `seconds`, and the host `host` to enqueue. When it is done."""
        if len(self._queue) >= QUEUE:
            self.host = max(self.host, self._queue[-QUEUE])
        self.host += host
        self.gpu = max(self.gpu, self.host) + seconds
        self._queue.append(self.gpu)
        return self.gpu

    def _sleep(self, ticks: int) -> None:
        self.waits += 1
        self.give(ticks / TICKS)


class Event:
    """As torch.cuda.Event."""

    def __init__(self, clock: GpuClock, enable_timing: bool = False) -> None:
        self._clock, self._timed, self._at = clock, enable_timing, 0.0

    def record(self, stream: Any = None) -> None:
        self._at = self._clock.give(0.0)

    def wait(self, stream: Any = None) -> None:
        pass

    def query(self) -> bool:
        return self._at <= self._clock.host

    def synchronize(self) -> None:
        self._clock.host = max(self._clock.host, self._at)

    def elapsed_time(self, end: Event) -> float:
        """In milliseconds, of events that are over."""
        assert self._timed and end._timed and self.query() and end.query()
        return 1e3 * (end._at - self._at)
