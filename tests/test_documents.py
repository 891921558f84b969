"""What the documents name is there: files, links, modules, commands, public names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer
from typer.main import get_command_name

import optgraph
from optgraph.cli import main
from tests.support.paths import ROOT
from tests.test_house import FLOORS

DOCUMENTS = sorted(
    path
    for folder in (".", "docs", "docs/howto", "docs/reference", "benchmarks", "examples/graphs", "kernels", "passes")
    for path in (ROOT / folder).glob("*.md")
)
EACH = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
FOLDERS = "optgraph|kernels|passes|tests|benchmarks|examples|docs"


def headings(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@EACH
def test_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target, anchor in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", text):
        path = document.parent / target if target else document
        assert path.exists(), target
        assert not anchor or anchor in headings(path), f"{target}#{anchor}"


@EACH
def test_files_are_there(document: Path) -> None:
    text = document.read_text()
    named = re.findall(rf"(?<![\w./-])(?:{FOLDERS})/[\w./-]*\w\.(?:py|md|onnx)\b", text)
    missing = [name for name in named if not (ROOT / name).exists() and not re.search("NAME|FAMILY", name)]
    assert not missing


@EACH
def test_tests_are_there(document: Path) -> None:
    named = re.findall(r"(tests/[\w/]+\.py)::(\w+)", document.read_text())
    missing = [f"{file}::{name}" for file, name in named if f"def {name}(" not in (ROOT / file).read_text()]
    assert not missing


def test_every_finding_of_before_the_gpu_has_tests() -> None:
    text = (ROOT / "docs" / "gpu.md").read_text().partition("\n## ")[0]
    rows = re.findall(r"^\| (?!found|---)(.*) \| (.*) \| (.*) \|$", text, re.MULTILINE)
    assert len(rows) == 18
    assert [found for found, _, tests in rows if "::test_" not in tests] == [rows[-1][0]]  # which no code can settle


def found(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even what it would be in
        return False


@EACH
def test_modules_and_names_are_there(document: Path) -> None:
    text = document.read_text()
    assert all(found(module) for module in re.findall(r"python -m ([\w.]+)", text))
    for dotted in re.findall(r"(?<![\w/])optgraph\.([a-z_]+(?:\.[a-z_]+)*)\b(?!/)", text):
        name = dotted.split(".")[0]
        assert name in optgraph.__all__ or found(f"optgraph.{dotted}"), dotted


@EACH
def test_commands_are_there(document: Path) -> None:
    text = document.read_text()
    commands = {get_command_name(each.callback.__name__) for each in main.app.registered_commands if each.callback}
    assert set(re.findall(r"(?:`|    |\$ )optgraph ([a-z][a-z-]*)\b", text)) <= commands
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|    )make ([a-z]+)\b", text)) <= targets


def test_options_are_there() -> None:
    options = {"--help"}
    whole = typer.main.get_command(main.app)
    for command in (whole, *whole.commands.values()):  # type: ignore[attr-defined]
        options.update(o for parameter in command.params for o in (*parameter.opts, *parameter.secondary_opts))
    for name in (
        "README.md",
        "docs/usage.md",
        "docs/tutorial.md",
        "docs/howto/gpu.md",
        "docs/howto/prediction.md",
        "docs/howto/quantize.md",
    ):
        commands = re.sub(r"python -m .*|bin/pip .*|curl .*", "", (ROOT / name).read_text())
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", commands)) <= options, name


def test_every_environment_variable_is_told() -> None:
    told = (ROOT / "docs" / "reference" / "environment.md").read_text()
    read = set(re.findall(r'environ\.get\("(\w+)"', (ROOT / "optgraph" / "base" / "config.py").read_text()))
    assert len(read) >= 5 and read <= set(re.findall(r"^\| `(\w+)=", told, re.MULTILINE))


def code(document: Path) -> Iterator[ast.AST]:
    for block in re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL):
        yield from ast.walk(ast.parse(block))


def test_the_readme_calls_what_is_public() -> None:
    called = {
        node.attr
        for node in code(ROOT / "README.md")
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "optgraph"
    }
    assert {"compile", "load", "read", "simplify", "verify"} <= called <= set(optgraph.__all__)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 250


def test_the_folders_are_told_from_the_ground_up() -> None:
    tree = re.search(r"```\noptgraph/\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    assert tree and tuple(re.findall(r"^  (\w+)/", tree[1], re.MULTILINE)) == FLOORS
