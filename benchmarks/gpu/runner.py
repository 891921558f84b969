"""Has a step's tasks done by processes that may fail, hang, crash or lie, and keeps what comes of each.

A task is noted as begun before it starts, and has a deadline. A process that misses it, ends, or answers with anything
but what is asked for is killed, with all that it started, and the next task gets a new one. So whatever breaks, what
was measured before is in the step's file, and what comes after is measured.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import record
from optgraph.base.store import TRIES, Record, Store, read

KILL_SECONDS = 5.0  # a process in the driver may not end when it is killed: it is left behind then
LONGEST_ANSWER = 1 << 22  # bytes
TARGET = "TARGET"  # in the name of a step's file: what its processes say that they run on, as sm_90


class LostError(Exception):
    """A process that is of no use any more, and why."""


class Process:
    """A worker, seen from outside. log: what its tasks print is added there."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._answers, theirs = os.pipe()
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [*command, str(theirs)],
                env=dict(environment),
                cwd=record.ROOT,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                pass_fds=(theirs,),
                start_new_session=True,
            )
        os.close(theirs)
        self._read = b""

    def ask(self, question: str, seconds: float) -> Record:
        """The answer; '' asks for the first one. Raises LostError, and the process is killed then."""
        try:
            if question:
                assert self._process.stdin
                with suppress(BrokenPipeError):  # why it ended is told by what it answers
                    self._process.stdin.write(f"{question}\n".encode())
                    self._process.stdin.flush()
            return _parsed(self._line(time.monotonic() + seconds, seconds))
        except LostError:
            self.end()
            raise

    def _line(self, deadline: float, seconds: float) -> bytes:
        with selectors.DefaultSelector() as ready:
            ready.register(self._answers, selectors.EVENT_READ)
            while b"\n" not in self._read:
                if not ready.select(max(0.0, deadline - time.monotonic())):
                    raise LostError(f"no answer within {seconds:.3g} s")
                part = os.read(self._answers, 1 << 16)
                self._read += part
                if not part:
                    raise LostError(self._ended())
                if len(self._read) > LONGEST_ANSWER:
                    raise LostError("it answered without end")
        found, _, self._read = self._read.partition(b"\n")
        return found

    def _ended(self) -> str:
        try:
            code = self._process.wait(KILL_SECONDS)
        except subprocess.TimeoutExpired:
            return "it hung up, and goes on"
        return f"it ended by {signal.Signals(-code).name}" if code < 0 else f"it ended, with exit code {code}"

    def end(self) -> None:
        """Kills it, and what it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(KILL_SECONDS)
        if self._process.stdin:
            with suppress(OSError):
                self._process.stdin.close()
        with suppress(OSError):
            os.close(self._answers)
            self._answers = -1


def _parsed(text: bytes) -> Record:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise LostError(f"it answered {text[:60]!r}")
    return found


@dataclass
class Found:
    """What became of a step. done: measured in this call; kept: in all; left: not tried for want of time. failed: why,
    by key, of those that have no record. error: why the step itself could not go on."""

    done: int = 0
    kept: int = 0
    left: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    error: str = ""
    seconds: float = 0.0

    @property
    def state(self) -> str:
        if self.error or self.failed:
            return "failed"
        return "unfinished" if self.left else "done"


@dataclass(frozen=True)
class Limits:
    """start: seconds a process has to say what it runs on; listing: to name the next task. ahead: processes that are
    started before they are needed, where each does one task only."""

    start: float = 90.0
    listing: float = 240.0
    ahead: int = 0


class Runner:
    """One step in one call. start: makes a Process. path: its file. deadline: of `clock`, when the step must end."""

    def __init__(
        self,
        start: Callable[[], Process],
        path: Path,
        deadline: float,
        limits: Limits = Limits(),
        clock: Callable[[], float] = time.monotonic,
        tell: Callable[[str], None] = print,
    ) -> None:
        self._start, self._path, self._deadline, self._limits = start, path, deadline, limits
        self._clock, self._tell = clock, tell
        self._waiting: deque[Process] = deque()
        self._process: Process | None = None
        self._store: Store | None = None
        self._lost = 0
        self.found = Found()

    def run(self) -> Found:
        """Does what there is time for."""
        begin = self._clock()
        try:
            again = self._first_round()
            for key, seconds in again:
                if self._store and self._store.begun.get(key, TRIES) < TRIES:
                    self._do(key, seconds)
        except LostError as reason:
            self.found.error = str(reason)
        finally:
            for process in (self._process, *self._waiting):
                if process:
                    process.end()
        if self._store:
            self.found.kept = len(self._store.records)
            ended = dict.fromkeys(self._store.begun, "it did not end") | self._store.failed
            self.found.failed = {key: reason for key, reason in ended.items() if key in self._store.begun}
        self.found.seconds = self._clock() - begin
        return self.found

    def _first_round(self) -> list[tuple[str, float]]:
        """Does what was never tried; gives what was. Raises LostError if the tasks cannot be listed."""
        seen: set[str] = set()
        again: list[tuple[str, float]] = []
        while self._left() > 0:
            task = self._next()
            if task["key"] is None:
                return again
            key, seconds = str(task["key"]), float(task["seconds"])
            if key in seen:
                continue
            seen.add(key)
            assert self._store
            if key in self._store.begun:
                again.append((key, seconds))
            elif key not in self._store.records:
                self._do(key, seconds)
        self.found.left += 1  # at least
        return again

    def _next(self) -> Record:
        """The next task. A process may be lost in a call without having been given a task, but not two: then it is the
        listing that does it. Raises LostError then."""
        while True:
            try:
                found = self._alive().ask("next", min(self._limits.listing, self._left()))
                if "failed" in found or "key" not in found:
                    raise LostError(str(found.get("failed", f"it answered {found}")))
                return found if found["key"] is None else found | {"seconds": float(found["seconds"])}
            except (LostError, KeyError, TypeError, ValueError) as reason:
                self._drop()
                self._lost += 1
                if self._lost > 1 or self._left() <= 0:
                    raise LostError(f"its tasks could not be listed: {reason}") from None

    def _do(self, key: str, seconds: float) -> None:
        left = self._left()
        if left < seconds / 2:  # it would be cut off
            self.found.left += 1
            return
        assert self._store
        self._store.begin(key)
        begin = self._clock()
        try:
            found = self._alive().ask(f"do {key}", min(seconds, self._left()))
            broken = bool(found.get("broken"))
            if not isinstance(found.get("record"), dict) and not isinstance(found.get("failed"), str):
                raise LostError(f"it answered {str(found)[:60]!r}")
        except LostError as reason:
            found, broken = {"failed": str(reason)}, True
        if "record" in found:
            self._store.add(key, found["record"])
            self.found.done += 1
        else:
            self._store.fail(key, found["failed"])
        told = f"FAILED: {found['failed']}" if "failed" in found else "done"
        self._tell(f"  {key}: {told} ({self._clock() - begin:.1f} s)")
        if broken or self._limits.ahead:
            self._drop()

    def _alive(self) -> Process:
        """A process that has said what it runs on."""
        if self._process is None:
            while len(self._waiting) < max(1, self._limits.ahead):
                self._waiting.append(self._start())
            self._process = self._waiting.popleft()
            hello = self._process.ask("", min(self._limits.start, max(0.0, self._left())))
            if not isinstance(hello.get("identity"), dict) or not isinstance(hello.get("about"), dict):
                raise LostError(str(hello.get("failed", f"it answered {str(hello)[:60]}")))
            self._open(hello["identity"], hello["about"])
        return self._process

    def _open(self, identity: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        if self._store is None:
            path = self._path.with_name(self._path.name.replace(TARGET, str(identity.get("target"))))
            keep_earlier(path, identity)
            self._store = Store(path, identity, about)

    def _drop(self) -> None:
        if self._process:
            self._process.end()
        self._process = None

    def _left(self) -> float:
        return self._deadline - self._clock()


def keep_earlier(path: Path, identity: Mapping[str, Any]) -> None:
    """Sets aside what another machine or other code measured: a store would write over it."""
    found = read(path)
    if found.get("records") and found.get("identity") != dict(identity):
        path.replace(path.with_suffix(".earlier"))
