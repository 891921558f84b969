"""The rows of a table that is not finished, in a file beside it, so that whatever ends the process loses none.

SQLite keeps it: what is committed stays through a `kill -9`, and all but the last of it through a loss of power; half a
commit is undone by whoever opens the file next; a picture has one row; and a second process that would write there is
kept out.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from optgraph.base.errors import InputError
from optgraph.table.found import Entry

SUFFIX = ".unfinished"
_OURS = 0x6F707467  # how SQLite's header says whose file it is
_AGAIN = "mend that, and give the same command again"

Row = tuple[bytes, str, bytes]  # what the table calls a picture, why it has no answer, the record of its answer


class Made(NamedTuple):
    """A row to be added: of a picture why it has no answer, or the record of that."""

    entry: Entry
    error: str = ""
    record: bytes = b""


class Rows:
    """The rows so far. Those of pictures that failed are forgotten when it is opened again, and tried anew.

    path: of the file. All raise InputError if that cannot be read or written.
    """

    def __init__(self, path: Path, identity: Mapping[str, str]) -> None:
        """identity: what the rows are made by; InputError if those in the file are by another."""
        self.path = path
        self._finished = False
        with self._told():
            self._file = sqlite3.connect(path, timeout=0, isolation_level=None)
        try:
            self._open(identity)
        except BaseException:
            self._file.close()
            raise

    def _open(self, identity: Mapping[str, str]) -> None:
        self._do("PRAGMA locking_mode=EXCLUSIVE")
        if self._number("SELECT count(*) FROM sqlite_master") and self._number("PRAGMA application_id") != _OURS:
            raise InputError(f"{self.path}: is not what `optgraph run` leaves there: name another output, or delete it")
        self._do("PRAGMA journal_mode=WAL")  # what is committed is with the system, at the cost of writing it
        self._do("PRAGMA synchronous=NORMAL")
        self._do("BEGIN IMMEDIATE")
        self._do(f"PRAGMA application_id={_OURS}")
        self._do("CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT)")
        columns = "path BLOB PRIMARY KEY, size INTEGER, modified INTEGER, error TEXT, record BLOB"
        self._do(f"CREATE TABLE IF NOT EXISTS pictures ({columns})")
        some = self._number("SELECT count(*) FROM pictures WHERE error = ''")
        before: Mapping[str, str] = (self._about("identity") if some else None) or {}
        if not before:
            self._note("identity", dict(identity))
        for what, now in identity.items() if before else ():
            if before.get(what) != now:
                was = before.get(what, "none")
                raise InputError(
                    f"{self.path}: was begun with another {what} ({was}, and this is {now}): give the command that "
                    "began it, or delete that file to begin anew"
                )
        self._do("DELETE FROM pictures WHERE error != ''")
        self._do("COMMIT")

    def has(self, entry: Entry) -> bool:
        """Whether there is a row of this picture. One of the picture as it was before it changed is dropped."""
        found = self._do("SELECT size, modified FROM pictures WHERE path = ?", entry.name).fetchone()
        if found not in (None, (entry.size, entry.modified)):
            self._do("DELETE FROM pictures WHERE path = ?", entry.name)
        return bool(found == (entry.size, entry.modified))

    def add(self, rows: Sequence[Made]) -> None:
        """Adds rows, in the place of those of the same pictures."""
        self._do("BEGIN")
        for (name, _, size, modified, _), error, record in rows:
            self._do("INSERT OR REPLACE INTO pictures VALUES (?, ?, ?, ?, ?)", name, size, modified, error, record)
        self._do("COMMIT")

    def count(self) -> int:
        return self._number("SELECT count(*) FROM pictures")

    def failed(self) -> int:
        return self._number("SELECT count(*) FROM pictures WHERE error != ''")

    def errors(self, most: int) -> list[tuple[str, str]]:
        """The first pictures that failed, with why."""
        found = self._do("SELECT path, error FROM pictures WHERE error != '' ORDER BY path LIMIT ?", most)
        return [(text(name), error) for name, error in found]

    def in_order(self, at_once: int) -> Iterator[list[Row]]:
        """All rows by path, some at a time."""
        with self._told():
            found = self._do("SELECT path, error, record FROM pictures ORDER BY path")
            while rows := found.fetchmany(at_once):
                yield rows

    def finish(self, output: Path, write: Callable[[Path], None]) -> None:
        """Has the table written and puts it in its place.

        The table is known by its size and time, so that one that was put there just before a `kill -9` is taken for
        ours, and nothing else is replaced.
        """
        table = self.path.with_name(f"{self.path.name}.table")
        try:
            write(table)
            self.check(output)  # one may have come there since
            self._note("table", _known(table))
            os.replace(table, output)
        except OSError as error:
            reason = f"{error.strerror or error}: the rows are kept in {self.path}: {_AGAIN}"
            raise InputError(f"{output}: cannot be written: {reason}") from None
        finally:
            table.unlink(missing_ok=True)
        self._finished = True

    def check(self, output: Path) -> None:
        """Raises InputError if there is a file that is not the table of these rows."""
        if output.exists() and self._about("table") != _known(output):
            remedy = f"the rows are kept in {self.path}: move the other away, and give the same command again"
            raise taken(output, remedy)

    def __enter__(self) -> Rows:
        return self

    def __exit__(self, *error: object) -> None:
        """Keeps what was added, and lets go of the file; once the table is in its place, nobody needs that."""
        try:
            if self._file.in_transaction:
                self._do("COMMIT")
        finally:
            self._file.close()
        if self._finished:
            self.path.unlink(missing_ok=True)  # a second run may have come in between, and finished it too

    def _about(self, name: str) -> Any:
        found = self._do("SELECT value FROM about WHERE name = ?", name).fetchone()
        return None if found is None else json.loads(found[0])

    def _note(self, name: str, value: Any) -> None:
        self._do("INSERT OR REPLACE INTO about VALUES (?, ?)", name, json.dumps(value))

    def _number(self, query: str) -> int:
        return int(self._do(query).fetchone()[0])

    def _do(self, query: str, *values: Any) -> sqlite3.Cursor:
        with self._told():
            return self._file.execute(query, values)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What goes wrong with the file, in a line."""
        try:
            yield
        except sqlite3.Error as error:
            if error.sqlite_errorcode in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise InputError(f"{self.path}: another run is writing it: wait for that, or stop it") from None
            if isinstance(error, sqlite3.OperationalError):
                raise InputError(f"{self.path}: cannot be written ({error}): what is in it stays: {_AGAIN}") from None
            raise InputError(
                f"{self.path}: damaged, or not what `optgraph run` leaves there ({error}): delete it to begin anew"
            ) from None


def kept(path: Path) -> int:
    """How many rows are in such a file that nobody has open; 0 where that cannot be told."""
    try:
        with closing(sqlite3.connect(path, timeout=0)) as file:
            return int(file.execute("SELECT count(*) FROM pictures").fetchone()[0])
    except sqlite3.Error:
        return 0


def taken(output: Path, remedy: str = "name another, or delete it") -> InputError:
    """What is said of an output that is there already."""
    return InputError(f"{output}: is there already, and a table is not overwritten: {remedy}")


def text(name: bytes) -> str:
    """What a table calls a picture, as text: bytes that are no UTF-8 by their numbers."""
    return name.decode("utf-8", "backslashreplace")


def _known(path: Path) -> list[int]:
    about = path.stat()
    return [about.st_size, about.st_mtime_ns]
