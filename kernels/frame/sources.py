"""The kernels' sources: they decide what is compiled, so they go into the key of whatever is kept of it."""

from __future__ import annotations

import hashlib
import linecache
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

# By this very file, for the package may be reached by a link, by the root, or be installed.
_FOLDER = Path(__file__).parents[1]


@lru_cache(maxsize=1)
def kernel_files() -> frozenset[str]:
    """The files of all kernels of ours."""
    return frozenset(map(str, _FOLDER.rglob("*.py")))


def digest(files: Iterable[str] = ()) -> str:
    """SHA-256 of the sources of all kernels of ours and of `files`, by contents alone."""
    contents = sorted(map(source_digest, kernel_files() | set(files)))
    return hashlib.sha256("".join(contents).encode()).hexdigest()


@lru_cache(maxsize=256)
def source_digest(file: str) -> str:
    """SHA-256 of one file, as it was imported."""
    return hashlib.sha256("".join(linecache.getlines(file)).encode()).hexdigest()
