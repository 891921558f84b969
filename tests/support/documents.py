"""What a document shows, run and compared: files, commands and Python in its blocks."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

BLOCK = re.compile(r'^```(\w+)(?: title="(\S+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    language: str
    title: str
    content: str


def blocks(text: str) -> list[Block]:
    """Every block that has a language, in order."""
    return [Block(*match.groups(default="")) for match in BLOCK.finditer(text)]


def commands(block: Block) -> Iterator[tuple[str, list[str]]]:
    """What is typed, and the lines that are shown of its answer."""
    for part in re.split(r"^\$ ", block.content, flags=re.MULTILINE)[1:]:
        typed, *shown = part.splitlines()
        yield typed, shown


def plain(text: str) -> str:
    """Without what is a machine's and a run's own: figures, and the width of columns."""
    return " ".join(re.sub(r"\d[\d,.]*(?:e[+-]\d+)?", "#", text).split())


def check_shown(shown: list[str], answer: str) -> None:
    """The lines are in the answer, in this order, maybe among others."""
    found = plain(answer)
    for line in map(plain, shown):
        assert line in found, f"{line!r} does not follow in:\n{answer}"
        found = found.split(line, 1)[1]


class Reader:
    """Does in a folder what pages say, block by block: a file that has a title is written, what stands behind `$` is
    typed, other Python is run, in one namespace a page. What is shown of an answer must be in it.

    said: all that commands answered.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said = ""
        self._servers: list[subprocess.Popen[str]] = []
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("TRITON_INTERPRET", "OPTGRAPH_"))}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = kept | {"PATH": path, "COLUMNS": "120"}
        self._shell: dict[str, Any] = {"shell": True, "cwd": folder, "env": environment, "text": True}

    def read(self, text: str) -> int:
        """Returns how many commands and pieces of Python were run."""
        ran, printed = 0, ""
        namespace: dict[str, Any] = {"__name__": "page"}
        for block in blocks(text):
            if block.language == "python" and block.title:
                (self.folder / block.title).write_text(block.content)
            elif block.language == "python":
                printed = self._python(block.content, namespace)
                ran += 1
            elif block.language == "text" and printed:
                check_shown(block.content.splitlines(), printed)
            elif block.language == "console":
                for typed, shown in commands(block):
                    check_shown(shown, self._typed(typed))
                    ran += 1
        return ran

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *error: object) -> None:
        """Ends what was left to run behind an `&`."""
        for server in self._servers:
            server.terminate()
            server.communicate()

    def _python(self, code: str, namespace: dict[str, Any]) -> str:
        out = io.StringIO()
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(out):
            exec(compile(code, "page", "exec"), namespace)
        return out.getvalue()

    def _typed(self, command: str) -> str:
        if command.endswith(" &"):  # its first line says that it is there
            server = subprocess.Popen(f"exec {command[:-2]}", stdout=subprocess.PIPE, **self._shell)
            self._servers.append(server)
            assert server.stdout
            return server.stdout.readline()
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300, **self._shell)
        assert done.returncode == 0, done.stdout
        self.said += done.stdout
        return done.stdout
