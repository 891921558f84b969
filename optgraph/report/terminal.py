"""What a command says, and how: errors as one line and an exit code, progress on stderr, results on stdout.

Exit codes: 0 good, 1 the answer is no (a verification failed), 2 bad input, 3 a bug or out of memory, 130 interrupted,
141 the reader of a pipe has left.
"""

from __future__ import annotations

import functools
import json
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.text import Text

from optgraph.base import config
from optgraph.base.errors import GraphError, OptgraphError, printable
from optgraph.base.progress import Counted, Progress

LINE_EVERY = 30  # seconds


def guarded(function: Callable[..., None]) -> Callable[..., None]:
    """A command whose errors are one line on stderr and an exit code, never a traceback."""

    @functools.wraps(function)
    def command(*args: Any, **kwargs: Any) -> None:
        traced = config.debug() or kwargs.get("verbose", False)
        try:
            function(*args, **kwargs)
        except typer.Exit:
            raise
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except BrokenPipeError:  # a reader such as `head` has left
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(141) from None
        except MemoryError:
            _fail(3, "error: out of memory: use a smaller batch or model")
        except GraphError as error:
            _internal(error, traced)
        except OptgraphError as error:
            _fail(2, f"error: {error}")
        except OSError as error:
            _fail(2, f"error: {f'{error.filename}: ' if error.filename else ''}{error.strerror or error}")
        except Exception as error:
            _internal(error, traced)

    return command


def _internal(error: Exception, traced: bool) -> None:
    if traced:
        traceback.print_exception(error)
    _fail(3, f"internal error: {type(error).__name__}: {error}: please report, with the traceback that -v shows")


def _fail(code: int, message: str) -> None:
    print(printable(message), file=sys.stderr)
    raise typer.Exit(code)


@contextmanager
def busy(what: str) -> Iterator[None]:
    """Shows on stderr, if that is a terminal, that something is under way."""
    with Console(stderr=True).status(Text(printable(what))):
        yield


@contextmanager
def progress() -> Iterator[Progress]:
    """A line on stderr, if that is a terminal; call it with what is being done and how much of it, 0 to 1.

    How much is shown once it is more than nothing: of many steps only some know.
    """
    from rich import progress as shown

    console = Console(stderr=True)
    columns = shown.SpinnerColumn(), shown.TextColumn("{task.description}"), shown.TaskProgressColumn()
    with shown.Progress(
        *columns, shown.TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as line:
        task = line.add_task("loading", total=None)
        yield lambda what, done: line.update(
            task, description=escape(printable(what)), completed=done, total=1.0 if done else None
        )


@contextmanager
def counted(what: str) -> Iterator[Counted]:
    """A bar on stderr, or where that is no terminal a line every LINE_EVERY seconds: how many are done, how fast."""
    from rich import progress as shown

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(what)
        return
    columns = (
        shown.TextColumn("{task.fields[number]}"),
        shown.BarColumn(None),
        shown.TextColumn("{task.fields[rate]}"),
        shown.TimeRemainingColumn(compact=True),
    )
    with shown.Progress(*columns, console=console, transient=True, expand=True) as line:
        pace = _Pace()
        task = line.add_task("", total=None, number="", rate="")

        def tell(done: int, total: int, failed: int) -> None:
            number = f"{done:,} of {total:,} {what}" + (f", {failed:,} failed" if failed else "")
            line.update(task, total=total, completed=done, number=number, rate=pace.told(done))

        yield tell


class _Pace:
    """How many a second, since the first that it was told of."""

    def __init__(self) -> None:
        self._first: int | None = None
        self._start = time.monotonic()

    def told(self, done: int) -> str:
        if self._first is None:
            self._first = done
        seconds = time.monotonic() - self._start
        return f"{(done - self._first) / seconds:,.1f} a second" if done > self._first and seconds else ""


class _Lines:
    """A line now and then, for a log."""

    def __init__(self, what: str) -> None:
        self._what, self._pace, self._last = what, _Pace(), time.monotonic()

    def __call__(self, done: int, total: int, failed: int) -> None:
        rate = self._pace.told(done)
        if time.monotonic() - self._last >= LINE_EVERY:
            self._last = time.monotonic()
            parts = f"{done:,} of {total:,} {self._what}", f"{failed:,} failed" if failed else "", rate
            print(", ".join(filter(None, parts)), file=sys.stderr, flush=True)


def show(as_json: bool, data: Mapping[str, Any], *parts: RenderableType) -> None:
    """To stdout: `data` as JSON, or `parts` for people, with an empty line between them."""
    if as_json:
        print(dumps(data), flush=True)
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    with console.capture() as captured:  # rich would leave on a broken pipe with a code of its own
        for i, part in enumerate(parts):
            if i:
                console.print()
            console.print(_lines(part) if isinstance(part, str) else part, soft_wrap=isinstance(part, str))
    print(captured.get(), end="", flush=True)


def _lines(text: str) -> Text:
    return Text("\n".join(map(printable, text.splitlines())))


def dumps(data: Mapping[str, Any]) -> str:
    """Strict JSON: NaN and infinity, which it has not, become null."""
    return json.dumps(strict(data), indent=2, ensure_ascii=False, allow_nan=False)


def strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [strict(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
