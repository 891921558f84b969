"""Streams that only record, and a device that runs what they hold in any order that they allow."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from optgraph.run.driver import Bound


class Event:
    """Recorded once what was before it on its stream is done."""

    done = False


@dataclass(eq=False)
class Stream:
    """A queue of what is enqueued: ('record' or 'wait', event) or ('launch', function)."""

    queue: list[tuple[str, Any]] = field(default_factory=list)

    def record_event(self) -> Event:
        event = Event()
        self.queue.append(("record", event))
        return event

    def wait_event(self, event: Event) -> None:
        self.queue.append(("wait", event))


class Around(Bound):
    """A launch, both ways of enqueuing which go through `how`."""

    def __init__(self, launch: Callable[[], None], how: Callable[[Callable[[], None]], None]) -> None:
        self._launch, self._how = launch, how

    def __call__(self) -> None:
        self._how(self._launch)

    def early(self) -> None:
        self._how(self._launch.early if isinstance(self._launch, Bound) else self._launch)


class Device:
    """Stands in for torch.cuda: knows the current stream, and runs what streams hold in a random order they allow."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.current = Stream()
        monkeypatch.setattr(torch.cuda, "stream", self.on)

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        outer, self.current = self.current, stream
        yield
        self.current = outer

    def enqueued(self, launch: Callable[[], None]) -> Callable[[], None]:
        return Around(launch, lambda run: self.current.queue.append(("launch", run)))

    def run(self, streams: list[Stream], seed: int) -> None:
        choose = random.Random(seed).choice
        left = [list(stream.queue) for stream in streams]
        while any(left):
            able = [queue for queue in left if queue and not (queue[0][0] == "wait" and not queue[0][1].done)]
            assert able, "all streams wait for one another"
            kind, what = choose(able).pop(0)
            if kind == "record":
                what.done = True
            elif kind == "launch":
                what()
