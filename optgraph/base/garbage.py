"""Python's cycle collector, paused while a graph is built or rewritten.

Its full collections walk every live object, so on a graph of 30,000 nodes they cost more than the passes and make the
whole superlinear; and a graph leaves no cyclic garbage behind. Two threads may pause at once: whichever found the
collector on turns it on again, early at worst.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
