"""Pictures decoded in threads while the network runs: Pillow lets go of Python's lock for most of its work."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from optgraph.base.errors import InputError, printable
from optgraph.table.found import Entry

Decoded = np.ndarray | str  # a picture as a batch of one, or why it is none


def decoded_ahead(
    entries: Iterable[Entry], read: Callable[[Path], np.ndarray], workers: int, ahead: int
) -> Generator[tuple[Entry, Decoded], None, None]:
    """Each entry with what `read` makes of it, in order. `ahead` of them at most are decoded or waited for at a time.

    workers: threads; with none, each is decoded when it is asked for.
    """
    if not workers:
        for entry in entries:
            yield entry, _decoded(entry, read)
        return
    pool = ThreadPoolExecutor(workers, "decoding")
    coming: deque[tuple[Entry, Future[Decoded]]] = deque()
    try:
        for entry in entries:
            coming.append((entry, pool.submit(_decoded, entry, read)))
            if len(coming) >= ahead:
                first, future = coming.popleft()
                yield first, future.result()
        while coming:
            first, future = coming.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _decoded(entry: Entry, read: Callable[[Path], np.ndarray]) -> Decoded:
    """One damaged picture in 100,000 is no reason to stop, whatever its decoder stumbled over."""
    if entry.error:
        return entry.error
    path = Path(entry.path)
    try:
        return read(path)
    except InputError as error:
        return str(error).removeprefix(printable(f"{path}: ")).removeprefix(printable(f"{path.name}: "))
    except MemoryError:
        raise
    except Exception as error:
        return printable(f"cannot be read: {type(error).__name__}: {error}")
