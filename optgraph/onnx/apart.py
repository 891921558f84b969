"""ONNX Runtime in a process of its own, for models that might kill it.

A fault in native code ends the process that it is in, with no word. `python -m optgraph.onnx.apart` reads requests from
its stdin and answers each on its stdout, pickled; it has one session at a time. What ONNX Runtime itself prints goes to
stderr, which is shown with OPTGRAPH_DEBUG=1 only. It ends with its stdin, and so with whoever started it, even where a
model hangs.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, BinaryIO

import numpy as np

from optgraph.base import config
from optgraph.base.errors import OptgraphError
from optgraph.onnx.sessions import Feeds, Running, session

DEADLINE = 600.0  # seconds for one answer, which is one model opened or one input run
COMMAND = ("-P", "-m", "optgraph.onnx.apart")  # -P: nothing is imported from where the user happens to be


class EndedError(OptgraphError):
    """ONNX Runtime has ended, or was ended for not answering.

    how: what became of it. what: the model that it was on. hung: whether it was ended at the deadline.
    """

    def __init__(self, how: str, what: str, hung: bool = False) -> None:
        super().__init__(f"ONNX Runtime {how} on {what}")
        self.how, self.what, self.hung = how, what, hung


class Apart:
    """A process that runs ONNX Runtime: started at once, and again where it has ended."""

    def __init__(self) -> None:
        self.opened: object = None  # the session that it has
        self._late = False
        self._process = self._started()

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def opener(self, what: str) -> Callable[..., Running]:
        """As `sessions.session`, in the process. `what` names the model where it ends, as EndedError."""
        return partial(_Session, self, what)

    def ask(self, what: str, *request: object) -> Any:
        """What the process answers. Raises OptgraphError if that is an error, EndedError if it has ended."""
        if self._process.poll() is not None:
            self.close()
            self._process = self._started()
        try:
            error, answer = self._exchange(request)
        except (EOFError, OSError, pickle.UnpicklingError):
            self.close()
            raise EndedError(self._fate(), what, self._late) from None
        except BaseException:  # half of a request, or of an answer, may be on its way
            self.close()
            raise
        if error:
            raise OptgraphError(error)
        return answer

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        self.opened = None
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # of what was not written yet
                pipe.close()  # type: ignore[union-attr]

    def _exchange(self, request: Sequence[object]) -> tuple[str, Any]:
        process = self._process
        self._late = False
        assert process.stdin is not None and process.stdout is not None
        watch = threading.Timer(DEADLINE, self._end_late)
        watch.daemon = True
        watch.start()
        try:
            _send(process.stdin, request)
            reply: tuple[str, Any] = pickle.load(process.stdout)
        finally:
            watch.cancel()
        return reply

    def _end_late(self) -> None:
        self._late = True
        self._process.kill()

    def _started(self) -> subprocess.Popen[bytes]:
        path = os.pathsep.join(folder or os.getcwd() for folder in sys.path if isinstance(folder, str))
        return subprocess.Popen(
            [sys.executable, *COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if config.debug() else subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": path},
        )

    def _fate(self) -> str:
        code = self._process.returncode
        if self._late:
            return f"was ended, for it gave no answer in {DEADLINE:g} s,"
        if code >= 0:
            return f"ended with exit code {code}"
        if -code == getattr(signal, "SIGKILL", 0):
            return "was killed, most likely for want of memory,"
        with suppress(ValueError):
            return f"ended with signal {-code} ({signal.Signals(-code).name})"
        return f"ended with signal {-code}"


class _Session:
    """As `sessions.Session`, in another process, where it is opened again if another has taken its place since."""

    def __init__(
        self,
        apart: Apart,
        what: str,
        model: bytes | str,
        threads: int = 0,
        optimize: bool = True,
        integers: bool = False,
    ) -> None:
        self._apart, self._what = apart, what
        self._request = "open", model, threads, optimize, *([None, True] if integers else [])
        self.inputs, self.outputs = self._open()

    def _open(self) -> tuple[list[str], list[str]]:
        self._apart.opened = None
        names: tuple[list[str], list[str]] = self._apart.ask(self._what, *self._request)
        self._apart.opened = self
        return names

    def run(self, names: Sequence[str] | None, feeds: Feeds) -> list[np.ndarray]:
        if self._apart.opened is not self:
            self._open()
        results: list[np.ndarray] = self._apart.ask(self._what, "run", names, dict(feeds))
        return results


def _send(pipe: BinaryIO | Any, message: object) -> None:
    pickle.dump(message, pipe, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.flush()


def serve() -> None:
    """Answers requests from stdin on stdout until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of a terminal: who started it will end it
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    requests: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
    threading.Thread(target=_read, args=[requests], daemon=True).start()
    running: Running | None = None
    reply: tuple[str, object]
    while True:
        kind, *request = requests.get()
        try:
            if kind == "open":
                running = None  # the last one's memory
                running = session(*request)
                reply = "", (running.inputs, running.outputs)
            else:
                assert running is not None
                reply = "", running.run(*request)
        except OptgraphError as error:
            reply = str(error), None
        except Exception as error:
            reply = f"ONNX Runtime cannot run the model: {type(error).__name__}: {error}", None
        _send(answers, reply)


def _read(requests: queue.SimpleQueue[tuple[Any, ...]]) -> None:
    try:
        while True:
            requests.put(pickle.load(sys.stdin.buffer))
    finally:
        os._exit(0)


if __name__ == "__main__":
    serve()
