"""Decoding ahead: in order, no further ahead than said, and one that stumbles stops nobody."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from optgraph.base.errors import InputError
from optgraph.table.decoding import decoded_ahead
from optgraph.table.found import Entry

ENTRIES = [Entry(str(i).encode(), str(i)) for i in range(40)]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_in_order_and_never_further_than_said(workers: int) -> None:
    """What is read is not let go of before it is asked for: so this is how much memory it takes."""
    asked: list[Entry] = []

    def entries() -> Iterator[Entry]:
        for entry in ENTRIES:
            asked.append(entry)
            yield entry

    def read(path: Path) -> np.ndarray:
        time.sleep(0.002 * (int(path.name) % 3))
        return np.array([int(path.name)])

    for i, (entry, decoded) in enumerate(decoded_ahead(entries(), read, workers, 6)):
        assert entry == ENTRIES[i] and not isinstance(decoded, str) and decoded[0] == i
        assert len(asked) <= i + 6
    assert len(asked) == 40


def test_several_at_once() -> None:
    met = threading.Barrier(3, timeout=30)

    def read(path: Path) -> np.ndarray:
        met.wait()
        return np.zeros(1)

    assert len(list(decoded_ahead(ENTRIES[:39], read, 3, 6))) == 39


@pytest.mark.parametrize("workers", [0, 2])
def test_what_goes_wrong_is_of_one_picture(workers: int) -> None:
    errors = [InputError("1: has no pixels"), ZeroDivisionError("oh\n"), RecursionError(), InputError("other")]

    def read(path: Path) -> np.ndarray:
        raise errors[int(path.name) - 1]

    entries = [Entry(b"0", "0", error="is no regular file"), *ENTRIES[1:5]]
    assert [decoded for _, decoded in decoded_ahead(entries, read, workers, 6)] == [
        "is no regular file",
        "has no pixels",
        "cannot be read: ZeroDivisionError: oh ",
        "cannot be read: RecursionError: ",
        "other",
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_no_memory_left_is_no_fault_of_a_picture(workers: int) -> None:
    def read(path: Path) -> np.ndarray:
        raise MemoryError

    with pytest.raises(MemoryError):
        list(decoded_ahead(ENTRIES, read, workers, 6))


def test_left_behind() -> None:
    """What is not begun is not done."""
    begun: list[str] = []

    def read(path: Path) -> np.ndarray:
        begun.append(path.name)
        time.sleep(0.01)
        return np.zeros(1)

    stream = decoded_ahead(ENTRIES, read, 1, 20)
    next(stream)
    stream.close()
    time.sleep(0.05)
    assert len(begun) < 10
