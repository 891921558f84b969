"""ONNX Runtime that goes wrong on purpose: `python faulty_ort.py HOW [WHERE ...]` serves as `optgraph.onnx.apart` does,
but on models with a node called 'bad'.

HOW: a signal's name, 'hang', 'raise', 'exit', or 'print', which is not wrong. WHERE: 'optimized', only where a model
is to be optimised; 'ours', only in what we have written; 'run', when it runs, and not when it is opened.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import onnx

from optgraph.onnx import apart
from optgraph.onnx.sessions import Running, session


def faulty(how: str, *where: str) -> Any:
    """What opens sessions."""

    def opened(model: bytes | str, threads: int = 0, optimize: bool = True) -> Running:
        running = session(model, threads, optimize)
        proto = onnx.load(model, load_external_data=False) if isinstance(model, str) else onnx.load_from_string(model)
        meant = any(node.name == "bad" for node in proto.graph.node)
        meant &= optimize or "optimized" not in where
        meant &= proto.producer_name == "optgraph" or "ours" not in where
        if meant and "run" in where:
            running.run = lambda *_: fail(how)  # type: ignore[method-assign]
        elif meant:
            fail(how)
        return running

    return opened


def fail(how: str) -> Any:
    if how == "hang":
        time.sleep(600)
    elif how == "raise":
        raise RuntimeError("something\nin many lines")
    elif how == "exit":
        os._exit(7)
    elif how == "print":
        os.write(1, b"a line of the library's own\n" * 100)
        print("and one of Python's", flush=True)
    else:
        os.kill(os.getpid(), getattr(signal, how))


if __name__ == "__main__":
    apart.session = faulty(*sys.argv[1:])
    apart.serve()
