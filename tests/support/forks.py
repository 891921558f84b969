"""The command line in processes that start at once, to be interrupted: a server imports all, and forks for each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

_SERVER = """
import json, os, signal, sys
import optgraph, onnxruntime
import optgraph.cli.tabulate, optgraph.compare.verify, optgraph.report.results
import optgraph.int8.quantize, optgraph.report.quantised
import optgraph.table.fill, optgraph.table.formats, optgraph.table.identity
from optgraph.cli.main import main
optgraph.compile
signal.signal(signal.SIGINT, signal.default_int_handler)
Runner = optgraph.table.fill.Runner

def stopping(read, after, how):
    left = iter(range(after))

    def reading(self, path):
        if next(left, None) is None:
            os.kill(os.getpid(), how)
        return read(self, path)

    return reading

print("ready", flush=True)
for line in sys.stdin:
    arguments, out, err, after, how = json.loads(line)
    child = os.fork()
    if not child:
        for name, number in ((os.devnull, 0), (out, 1), (err, 2)):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644), number)
        sys.argv = ["optgraph", *arguments]
        if how:
            Runner.read = stopping(Runner.read, after, how)
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        sys.stdout.flush()
        os._exit(code)  # libraries would end threads that only the server has
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Ended(NamedTuple):
    """How a process ended: its exit code, below 0 for the signal that killed it, and what it said."""

    code: int
    out: str
    err: str


class Forks:
    """A server to be closed after use, which runs one command at a time."""

    def __init__(self, folder: Path) -> None:
        environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
        command = [sys.executable, "-c", _SERVER]
        pipe = subprocess.PIPE
        self._server = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        self._said = folder / "out", folder / "err"
        assert self._line() == "ready"
        self._child = 0

    def start(self, *arguments: object, after: int = 0, how: int = 0) -> None:
        """how: the signal that it is sent when so many pictures were read, if any."""
        assert self._server.stdin
        said = [str(path) for path in self._said]
        print(json.dumps([[str(each) for each in arguments], *said, after, how]), file=self._server.stdin, flush=True)
        self._child = int(self._line())

    def stop(self, how: signal.Signals) -> None:
        """It has not been waited for yet, so its number is still its own."""
        os.kill(self._child, how)

    def wait(self) -> Ended:
        code = int(self._line())
        return Ended(code, *(path.read_text() for path in self._said))

    def close(self) -> None:
        self._server.communicate(timeout=60)

    def _line(self) -> str:
        assert self._server.stdout
        return self._server.stdout.readline().strip()
