"""How much a command says: the options --json, -v and -q, and what they make of `report.terminal`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from optgraph.base.errors import printable
from optgraph.base.progress import Counted, Progress, silent, uncounted
from optgraph.report import terminal

Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]
Verbose = Annotated[
    bool,
    typer.Option(
        "-v",
        "--verbose",
        help="Print more: passes that changed nothing, what passes refused and why, and the traceback of an internal "
        "error.",
    ),
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing but errors, and what --json asks for.")]


@dataclass(frozen=True)
class Say:
    """What a command shows of its work, on stderr, and of its result, on stdout."""

    json: Json = False
    verbose: Verbose = False
    quiet: Quiet = False

    def busy(self, what: str) -> AbstractContextManager[None]:
        """Shows that something is under way."""
        return nullcontext() if self.quiet else terminal.busy(what)

    def progress(self) -> AbstractContextManager[Progress]:
        """Shows how far it is, which it is told by a call."""
        return nullcontext(silent) if self.quiet else terminal.progress()

    def counted(self, what: str) -> AbstractContextManager[Counted]:
        """Shows how many of so many are done, which it is told by a call."""
        return nullcontext(uncounted) if self.quiet else terminal.counted(what)

    def note(self, lines: Sequence[str]) -> None:
        """What else there is to know, on stderr, so that it is no part of the result."""
        for line in () if self.quiet else lines:
            print(f"note: {printable(line)}", file=sys.stderr)

    def show(self, data: Mapping[str, Any], *parts: RenderableType) -> None:
        """Prints the result: `data` for --json, or `parts` for people."""
        if self.json or not self.quiet:
            terminal.show(self.json, data, *parts)
