"""A step whose tasks misbehave, each in its way, on no device at all: `python fake_step.py FAULTS LISTING ANSWERS`.

FAULTS: names of tasks, with commas. LISTING: what goes wrong before there are tasks, or between them, or nothing. It
imports neither torch nor numpy, and so starts quickly.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.gpu import worker

SECONDS = 0.4  # a task's deadline


class FakeStep:
    def __init__(self, faults: list[str], listing: str, answers: int) -> None:
        self._faults, self._listing, self._answers = faults, listing, answers
        self._broken = False

    def identity(self) -> dict[str, str]:
        self._fault(self._listing if self._listing.startswith("start ") else "")
        return {"gpu": "none", "target": "sm_90"}

    def about(self) -> dict[str, str]:
        return {"date": "today"}

    def settle(self) -> None:
        if self._broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def tasks(self) -> Iterator[worker.Task]:
        for name in self._faults:
            yield worker.Task(name, lambda name=name: self._do(name), 60.0 if name == "takes long" else SECONDS)
        self._fault(self._listing if self._listing.startswith("list ") else "")
        yield worker.Task("last", lambda: self._do(""), SECONDS)

    def _do(self, name: str) -> worker.Record:
        number = self._fault(name)
        return {"us": number}

    def _fault(self, name: str) -> float:
        match name.split()[-1:] or [""]:
            case ["raises"]:
                raise ValueError("off by 3.0e-01, bound 2.0e-03\nand more")
            case ["signal"]:
                os.kill(os.getpid(), signal.SIGSEGV)
            case ["exits"]:
                os._exit(3)
            case ["hangs"] | ["long"]:
                print("child", subprocess.Popen(["sleep", "30"]).pid, flush=True)
                time.sleep(30)
            case ["nan"]:
                return math.nan
            case ["garbage"]:
                os.write(self._answers, b"\x00\xff no JSON\n")
            case ["other"]:
                os.write(self._answers, b'{"record": 3}\n')
            case ["endless"]:
                os.write(self._answers, b"x" * (1 << 16))
                time.sleep(30)
            case ["prints"]:
                print('{"record": {"us": 0.0}}\n' * 100, flush=True)
            case ["sticky"]:
                self._broken = True
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            case ["late"]:
                self._broken = True
        return 1.5


if __name__ == "__main__":
    tasks, listing, number = (os.fsencode(argument).decode() for argument in sys.argv[1:])  # whatever the locale is
    worker.run(lambda: FakeStep(tasks.split(","), listing, int(number)), int(number))
