"""The process that does a step's tasks: it lists them when asked, does one at a time, and answers in lines of JSON.

    python -m benchmarks.gpu.worker STEP ANSWERS

What it is asked comes by stdin: `next` for the next task, `do KEY` for a task's record. What it answers goes to the
file descriptor ANSWERS; its first answer, unasked, is what it runs on. stdout is the tasks' own: what they print, and
what libraries do, cannot be taken for an answer. It imports torch only with the step, and is watched by `runner.py`.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Any, NamedTuple, Protocol, cast

Record = dict[str, Any]


class Task(NamedTuple):
    """Something to measure or to check. run raises what is wrong; seconds: when it is taken for hung."""

    key: str
    run: Callable[[], Record]
    seconds: float = 60.0


class Step(Protocol):
    """What a step's module has: what its figures depend on, what else its file says, and its tasks, which may be made
    as they are listed. settle: waits for the device; raises if that is broken."""

    def identity(self) -> Mapping[str, Any]: ...
    def about(self) -> Mapping[str, Any]: ...
    def tasks(self) -> Iterable[Task]: ...
    def settle(self) -> None: ...


def flaw(value: Any, path: str = "") -> str:
    """Where a record has a number that is none; '' if nowhere."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{path or 'it'} is {value}"
    pairs: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        pairs = value.items()
    elif isinstance(value, list | tuple):
        pairs = enumerate(value)
    return next(filter(None, (flaw(item, f"{path}.{key}".lstrip(".")) for key, item in pairs)), "")


def line(error: BaseException) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:400]}" if text else type(error).__name__


class Worker:
    """A step, listed as far as it was asked for."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._rest: Iterator[Task] | None = None
        self._listed: dict[str, Task] = {}

    def hello(self) -> Record:
        return {"identity": dict(self._step.identity()), "about": dict(self._step.about())}

    def next(self) -> Record:
        """The next task in order; its key is None after the last."""
        if self._rest is None:
            self._rest = iter(self._step.tasks())
        task = next(self._rest, None)
        if task is None:
            return {"key": None}
        self._listed[task.key] = task
        return {"key": task.key, "seconds": task.seconds}

    def do(self, key: str) -> Record:
        """The record of a task, which may not have been listed in this process yet."""
        while key not in self._listed:
            if self.next()["key"] is None:
                return {"failed": "there is no such task any more"}
        try:
            record = self._listed[key].run()
            self._step.settle()  # what was enqueued may fail later
        except Exception as reason:
            return {"failed": line(reason), "broken": self._broken()}
        if found := flaw(record):
            return {"failed": f"no number: {found}"}
        return {"record": record}

    def _broken(self) -> bool:
        """Whether this process can do nothing more on the device: after an illegal address, every call fails."""
        try:
            self._step.settle()
        except Exception:
            return True
        return False


def serve(step: Callable[[], Step], questions: IO[str], answers: IO[str]) -> None:
    """Answers until there are no more questions, or the device is broken."""

    def answer(found: Record) -> None:
        print(json.dumps(found), file=answers, flush=True)

    try:
        worker = Worker(step())
        answer(worker.hello())
        for question in questions:
            verb, _, key = question.rstrip("\n").partition(" ")
            found = worker.next() if verb == "next" else worker.do(key)
            answer(found)
            if found.get("broken"):
                return
    except Exception as reason:
        answer({"failed": line(reason)})


def run(step: Callable[[], Step], number: int) -> None:
    """Serves stdin and the file descriptor `number`, neither of which the processes get that a task starts."""
    os.set_inheritable(number, False)
    questions = os.fdopen(os.dup(0), "r", encoding="utf-8")  # keys have a × in them
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    with os.fdopen(number, "w") as answers:
        serve(step, questions, answers)
        answers.flush()
        os._exit(0)  # a broken device may hang what runs at exit


def main() -> None:
    name, number = sys.argv[1:]
    run(lambda: cast(Step, importlib.import_module(f"benchmarks.gpu.{name}")), int(number))


if __name__ == "__main__":
    main()
