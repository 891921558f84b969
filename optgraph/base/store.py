"""A JSON file of records that outlives the process: what is finished is kept, and the next call goes on from there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from optgraph.base.files import replacing

Record = dict[str, Any]
Task = tuple[str, Callable[[], Record]]


class Store:
    """Records by key, in `path`, with what they were taken on.

    identity: machine, versions, code: a file of another one counts as empty, as does one that cannot be read, so that
    records of two machines never stand side by side. about: what else the file says.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], about: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self._header = {**(about or {}), "identity": dict(identity)}
        found = read(path)
        self.records: dict[str, Record] = found["records"] if found.get("identity") == dict(identity) else {}

    def add(self, key: str, record: Record) -> None:
        """Keeps a record, on disk too."""
        self.records[key] = record
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as file:
            file.write((json.dumps(self._header | {"records": self.records}, indent=1) + "\n").encode())

    def complete(self, tasks: Iterable[Task], deadline: float, clock: Callable[[], float] = time.monotonic) -> bool:
        """Does the tasks whose keys are not there yet, until the clock passes `deadline`; whether none is left."""
        for key, task in tasks:
            if key in self.records:
                continue
            if clock() >= deadline:
                return False
            self.add(key, task())
        return True


def read(path: Path) -> Record:
    """What a Store wrote, with its records by key; empty if there is none or it is something else."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("records"), dict) else {}
