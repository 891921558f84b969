"""The pictures among files and in folders, with what a table calls each and what tells whether it has changed since.

Folders are looked through with all that are in them, links to folders followed; each folder is visited once, whatever
leads to it, so links in a circle end and no picture comes twice that way. Hidden files and folders are left out.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from optgraph.base.errors import InputError
from optgraph.pictures.decode import FORMATS, is_picture


class Entry(NamedTuple):
    """A picture. name: what the table calls it. size: in bytes, and modified: in nanoseconds, when it was found.
    error: why it cannot be read, if that shows already."""

    name: bytes
    path: str
    size: int = 0
    modified: int = 0
    error: str = ""


def check_sources(sources: Sequence[str]) -> None:
    """Raises InputError for one that is neither a folder nor a file that is a picture by its name."""
    for source in sources:
        path = Path(source)
        if not path.is_dir() and not is_picture(path):
            raise InputError(f"{source}: a table is of pictures: expects {', '.join(FORMATS)} or a folder of them")
        if not path.exists():
            raise InputError(f"{source}: no such file or folder")


def pictures(sources: Sequence[str]) -> Iterator[Entry]:
    """Every picture of `sources`; only one folder's are held at a time. A folder that cannot be listed comes as an
    error."""
    seen: set[tuple[int, int]] = set()
    for source, name in zip(sources, called(sources), strict=True):
        if os.path.isdir(source):
            yield from _inside(source, name, seen)
        else:
            yield _entry(name, source)


def called(sources: Sequence[str]) -> list[str]:
    """What a table calls each of `sources`: as it is given, and an only folder nothing: its pictures, by their paths
    in it."""
    if len(sources) == 1 and os.path.isdir(sources[0]):
        return [""]
    return [os.path.normpath(source) for source in sources]


def _inside(source: str, name: str, seen: set[tuple[int, int]]) -> Iterator[Entry]:
    folders = [(source, name)]
    while folders:
        path, name = folders.pop()
        inner: list[tuple[str, str]] = []
        try:
            about = os.stat(path)
            if (about.st_dev, about.st_ino) in seen:
                continue
            seen.add((about.st_dev, about.st_ino))
            with os.scandir(path) as listing:
                found = sorted((entry.name, _is_folder(entry)) for entry in listing if entry.name[0] != ".")
        except OSError as error:
            yield Entry(os.fsencode(name or "."), path, error=f"the folder cannot be read: {error.strerror or error}")
            continue
        for each, is_folder in found:
            inside = os.path.join(path, each), os.path.join(name, each)
            if is_folder:
                inner.append(inside)
            elif is_picture(Path(each)):
                yield _entry(inside[1], inside[0])
        folders += reversed(inner)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # of a link to itself
        return False


def _entry(name: str, path: str) -> Entry:
    try:
        about = os.stat(path)
    except OSError as error:
        return Entry(os.fsencode(name), path, error=f"cannot be read: {error.strerror or error}")
    reason = "" if stat.S_ISREG(about.st_mode) else "is no regular file"  # a pipe would be waited for
    return Entry(os.fsencode(name), path, about.st_size, about.st_mtime_ns, reason)
