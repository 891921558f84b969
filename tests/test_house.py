"""The house: folders use what is below them, no files in a circle, Triton only where it compiles and runs."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import networkx as nx
import pytest

from tests.support.paths import ROOT

# From the ground up: a folder uses itself and those before it.
FLOORS = (
    *("base", "ir", "kernels", "plan", "ops", "onnx", "passes", "cost"),
    *("ahead", "run", "modules", "tune", "pictures", "api", "compare", "int8", "table", "report", "adapters", "cli"),
)


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "optgraph" else ("optgraph", *parts)
    return ".".join(part for part in parts if part != "__init__")


FILES = {
    module_of(path): path
    for folder in ("optgraph", "kernels", "passes")
    for path in (ROOT / folder).rglob("*.py")
    if (ROOT / "optgraph" / "kernels") not in path.parents and (ROOT / "optgraph" / "passes") not in path.parents
}


@cache
def imports(path: Path) -> list[str]:
    """Every module a file imports anywhere in it: at its top, in a function, for types only."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [name if name in FILES else node.module for name in whole]
    return found


@cache
def house() -> nx.DiGraph:
    return nx.DiGraph((module, used) for module, path in FILES.items() for used in imports(path) if used in FILES)


def floor(module: str) -> int:
    """The floor of a module; the package itself, which only names what is in it, is the roof."""
    parts = module.split(".")
    return FLOORS.index(parts[1]) if len(parts) > 1 and parts[1] in FLOORS else len(FLOORS)


def test_every_folder_is_on_a_floor_and_says_what_it_holds() -> None:
    folders = {path.parent for path in FILES.values()} - {ROOT / "optgraph"}
    assert {floor(module_of(folder / "__init__.py")) for folder in folders} == set(range(len(FLOORS)))
    for folder in folders:
        told = folder / "__init__.py" if (folder / "__init__.py").exists() else folder / "README.md"
        assert "Uses" in told.read_text(), f"{folder} does not say what it uses"


def test_folders_use_what_is_below_them() -> None:
    upward = [f"{user} uses {used}" for user, used in house().edges if floor(used) > floor(user)]
    assert not upward


def test_no_files_use_each_other_in_a_circle() -> None:
    circles = [sorted(part) for part in nx.strongly_connected_components(house()) if len(part) > 1]
    assert not circles


BINDERS = ("optgraph.kernels.frame.variant", "optgraph.ahead.cubins", "optgraph.run.backends")


def test_triton_is_imported_by_jit_code_and_by_what_binds_it() -> None:
    users = {module for module, path in FILES.items() if any(name.split(".")[0] == "triton" for name in imports(path))}
    stray = {module for module in users if not module.startswith("optgraph.kernels.jit.")} - set(BINDERS)
    assert not stray


@pytest.mark.parametrize("name", ["kernels", "passes"])
def test_the_package_finds_the_folders_at_the_top(name: str) -> None:
    assert not (ROOT / name / "__init__.py").exists(), f"a top-level `{name}` would hide other people's packages"
