"""Files: what is one, and those that are written, looked at before the work and put in place in one step after it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from optgraph.base.errors import InputError

ARTIFACT = ".optgraph"
_HEADER = b'{"__metadata__"'  # of a safetensors file that has some, after 8 bytes of its length
_ONNX = b"\x08"  # a ModelProto's first field, the version of the format


def as_path(given: object) -> Path:
    """What was given for the path of a file. Raises InputError if it is none."""
    if not isinstance(given, str | os.PathLike):
        raise InputError(f"expects the path of a file, got {type(given).__name__}")
    path, name = Path(given), os.fspath(given)
    if not name or "\0" in name:
        raise InputError(f"expects the path of a file, got {'one with a null character' if name else 'an empty text'}")
    try:
        path.exists()
    except OSError as error:  # of a name that is too long, say
        raise InputError(f"{name[:80]}: no path of a file: {error.strerror}") from None
    return path


def is_artifact(path: Path) -> bool:
    """Whether a file is a compiled network: by what it begins with, and where that tells nothing, by its suffix."""
    start = b""
    with suppress(OSError):
        if path.is_file():
            with path.open("rb") as file:
                start = file.read(8 + len(_HEADER))
    return start[8:] == _HEADER or (path.suffix == ARTIFACT and not start.startswith(_ONNX))


def check_output(path: Path, *sources: Path) -> None:
    """Raises InputError if `path` is no place for a file: a directory, a device, in none, or one of `sources`."""
    if path.is_dir():
        raise InputError(f"{path}: is a directory: name a file in it")
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is not a regular file, and would be replaced by one: name another output")
    if not path.parent.is_dir():
        raise InputError(f"{path}: cannot be written, for {path.parent} is not a directory: make it first")
    for source in sources:
        if path.resolve() == source.resolve() or (path.exists() and source.exists() and path.samefile(source)):
            raise InputError(f"{path}: is the input itself: name another output")


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that becomes `path`, or what that links to, when the block ends; if it fails, what was there stays.

    Raises InputError if it cannot be written.
    """
    check_output(path)
    real = Path(os.path.realpath(path))
    temporary = real.with_name(f".{real.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
        os.replace(temporary, real)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        with suppress(OSError):  # it is in place by now, or was never made
            temporary.unlink()
