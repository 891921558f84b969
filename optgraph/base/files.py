"""Files that a command writes: looked at before the work, and put in place in one step after it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from optgraph.base.errors import InputError


def check_output(path: Path, *sources: Path) -> None:
    """Raises InputError if `path` is no place for a file: a directory, a device, in none, or one of `sources`."""
    if path.is_dir():
        raise InputError(f"{path}: is a directory: name a file in it")
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is not a regular file, and would be replaced by one: name another output")
    if not path.parent.is_dir():
        raise InputError(f"{path}: cannot be written, for {path.parent} is not a directory: make it first")
    for source in sources:
        if path.exists() and source.exists() and path.samefile(source):
            raise InputError(f"{path}: is the input itself: name another output")


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that becomes `path` when the block ends; if it fails, what was at `path` stays.

    Raises InputError if it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        with suppress(OSError):  # it is in place by now, or was never made
            temporary.unlink()
