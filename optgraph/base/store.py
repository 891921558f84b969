"""A JSON file of records that outlives the process: what is finished is kept, and the next call goes on from there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from optgraph.base.files import replacing

TRIES = 2  # of a task that ends its process, or fails

Record = dict[str, Any]
Task = tuple[str, Callable[[], Record]]


class Store:
    """Records by key, in `path`, with what they were taken on.

    identity: machine, versions, code: a file of another one counts as empty, as does one that cannot be read, so that
    records of two machines never stand side by side. about: what else the file says. begun: the tasks that never ended,
    and how often each was begun: they broke the device, hung, or ran out of time with their process. failed: why, where
    somebody watched.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], about: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self._header = {**(about or {}), "identity": dict(identity)}
        found = read(path)
        same = found if found.get("identity") == dict(identity) else {}
        self.records: dict[str, Record] = same.get("records", {})
        self.begun: dict[str, int] = same.get("begun", {})
        self.failed: dict[str, str] = same.get("failed", {})

    def begin(self, key: str) -> None:
        """Notes, on disk too, that a task is about to be done."""
        self.begun[key] = self.begun.get(key, 0) + 1
        self._write()

    def add(self, key: str, record: Record) -> None:
        """Keeps a record, on disk too."""
        self.records[key] = record
        self.begun.pop(key, None)
        self.failed.pop(key, None)
        self._write()

    def fail(self, key: str, reason: str) -> None:
        """Keeps why a task that was begun has no record, on disk too."""
        self.failed[key] = reason
        self._write()

    def _write(self) -> None:
        open_ends = {"begun": self.begun, "failed": self.failed}
        content = self._header | {name: found for name, found in open_ends.items() if found}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as file:
            file.write((json.dumps(content | {"records": self.records}, indent=1) + "\n").encode())

    def complete(self, tasks: Iterable[Task], deadline: float, clock: Callable[[], float] = time.monotonic) -> bool:
        """Does the tasks whose keys are not there yet, until the clock passes `deadline`; whether none is left.

        One that an earlier process did not come back from is tried once more, after all others, and then left.
        """
        for key, task in self._in_order(tasks):
            if clock() >= deadline:
                return False
            self.begin(key)
            self.add(key, task())
        return True

    def _in_order(self, tasks: Iterable[Task]) -> Iterator[Task]:
        again: list[Task] = []
        for key, task in tasks:
            if key in self.begun:
                again.append((key, task))
            elif key not in self.records:
                yield key, task
        yield from (pair for pair in again if self.begun.get(pair[0], TRIES) < TRIES)


def read(path: Path) -> Record:
    """What a Store wrote, with its records by key; empty if there is none or it is something else."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("records"), dict) else {}
