"""What mkdocs is to know of this repository: a hook of mkdocs.yml.

Pages of the site are the files of docs/, those of PAGES, which lie where a reader of the sources expects them, and the
command line, written down from the code. A link from one page to another is a link of the site; one to any other file
of the repository, which the site does not have, is its text alone.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from mkdocs.structure.files import File, Files
from typer.cli import get_docs_for_click

from optgraph.cli.main import app

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# file of the repository -> page of the site
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
    "examples/graphs/README.md": "graphs.md",
    "tests/emulator/README.md": "emulator.md",
}
COMMANDS = "reference/cli.md"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    files.append(File.generated(config, COMMANDS, content=command_line()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    return relinked(markdown, page.file.src_uri)


def command_line() -> str:
    """Every command with its help, as typer writes it; examples are code."""
    command = typer.main.get_command(app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name="optgraph", title="Command line")
    text = re.sub(r"^\*\*Commands\*\*:\n\n(?:\* .*\n)+", "", text, flags=re.MULTILINE)  # cut short; they follow
    text = text.replace("\b\n", "").replace("Examples:\n", "Examples:\n\n")
    return re.sub(r"^  (?=optgraph )", "    ", text, flags=re.MULTILINE)


def relinked(markdown: str, page: str) -> str:
    """`markdown` with the links that hold on the site."""
    sources = {to: source for source, to in PAGES.items()}
    folder = posixpath.dirname(sources.get(page, f"docs/{page}"))

    def link(match: re.Match[str]) -> str:
        text, target, anchor = match.groups(default="")
        found = posixpath.normpath(posixpath.join(folder, target))
        to = PAGES.get(found) or (found.removeprefix("docs/") if found.startswith("docs/") else "")
        return f"[{text}]({posixpath.relpath(to, posixpath.dirname(page) or '.')}{anchor})" if to else text

    parts = re.split(r"(^```.*?^```)", markdown, flags=re.MULTILINE | re.DOTALL)  # code at odd places
    parts[::2] = [re.sub(r"\[([^\]]+)\]\((?!\w+:)([^)#]+)(#[^)]*)?\)", link, part) for part in parts[::2]]
    return "".join(parts)
