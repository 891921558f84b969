"""The package as others get it: from a wheel, from a folder of its own name, from a checkout without symlinks."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli_models import saved
from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# Where the sources of a package are that the checkout keeps at its top.
MOVED = {"optgraph.kernels": "kernels", "optgraph.passes": "passes"}
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "TRITON_INTERPRET")}

USE = """
import importlib, sys
import numpy as np
import optgraph
net = optgraph.compile(sys.argv[1], backend="interpret")
assert np.isfinite(net(np.ones((1, 3, 12, 12), np.float32))).all()
for module in sys.argv[2:]:
    importlib.import_module(module)
print(optgraph.__file__, net.plan().launches_by_kernel())
"""


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run([*map(str, command)], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip(*arguments: object, cwd: Path) -> None:
    """pip without a network, and without building in isolation, which would ask for one."""
    run(sys.executable, "-m", "pip", *arguments, "--quiet", "--no-deps", "--no-build-isolation", "--no-index", cwd=cwd)


def clone(folder: Path, *options: str) -> Path:
    """The commit that is checked out, in a folder called as the package is."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs git and a checkout with its history")
    run("git", "clone", "--quiet", *options, ROOT, folder / "optgraph", cwd=folder)
    return folder / "optgraph"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clone(tmp_path_factory.mktemp("clone"))


def environment(folder: Path) -> Path:
    """The Python of a new environment that has what these tests run with, but for optgraph."""
    venv.create(folder / "venv", with_pip=False)
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    needed = [importlib.util.find_spec(name) for name in ("numpy", "setuptools", "torch")]
    folders = {str(Path(spec.origin).parents[1]) for spec in needed if spec and spec.origin}
    (site / "needed.pth").write_text("\n".join(folders))  # of these folders, no .pth is read, such as optgraph's own
    return folder / "venv" / "bin" / "python"


def modules(root: Path, package: str) -> list[str]:
    """Every module of a package that is kept at the top of the checkout."""
    paths = sorted((root / MOVED[package]).rglob("*.py"))
    names = [".".join((package, *path.relative_to(root / MOVED[package]).with_suffix("").parts)) for path in paths]
    assert len(names) > 10
    return [name.removesuffix(".__init__") for name in names]


def test_a_checkout_without_symlinks_works(tmp_path: Path) -> None:
    """As git makes one on Windows: what should be a link is a file with the path in it."""
    root = clone(tmp_path, "--config", "core.symlinks=false")
    assert all((root / "optgraph" / name).is_file() for name in MOVED.values())
    names = [name for package in MOVED for name in modules(root, package)]
    out = run(sys.executable, "-c", USE, saved(tmp_path), *names, cwd=root)
    assert out.startswith(f"{root / 'optgraph' / '__init__.py'} ") and "'conv2d': 1" in out


def test_an_editable_install_is_found_beside_its_own_folder(checkout: Path, tmp_path: Path) -> None:
    """From the folder that holds the clone, `optgraph` could also be the clone itself, as a namespace package."""
    python = environment(tmp_path)
    pip("--python", python, "install", "--ignore-installed", "--editable", checkout, cwd=tmp_path)
    code = "import optgraph, optgraph.kernels.frame, optgraph.passes.rewrite; print(optgraph.__file__)"
    found = run(python, "-c", code, cwd=checkout.parent)
    assert found.strip() == str(checkout / "optgraph" / "__init__.py")


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--wheel-dir", folder, checkout, cwd=folder)
    (found,) = folder.glob("*.whl")
    return found


def sources(root: Path) -> Iterator[str]:
    """Where each source file of the package is to be in a wheel."""
    for folder in ("optgraph", *MOVED.values()):
        for path in (root / folder).rglob("*.py"):
            place = path.relative_to(root)
            if place.parts[1] not in MOVED.values():  # the links
                yield str(place) if folder == "optgraph" else f"optgraph/{place}"


def test_the_wheel_has_every_module_and_nothing_beside_the_package(checkout: Path, wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert sorted(name for name in names if name.endswith(".py")) == sorted(sources(checkout))
    assert "optgraph/py.typed" in names
    page = checkout / "optgraph" / "report" / "page"
    parts = {str(path.relative_to(checkout)) for path in page.iterdir() if path.suffix in (".html", ".css", ".js")}
    assert len(parts) > 5 and parts <= set(names)
    metadata = f"optgraph-{PROJECT['project']['version']}.dist-info"
    assert {name.split("/")[0] for name in names} == {"optgraph", metadata}  # a top-level `kernels` is someone else's


def test_the_wheel_works_where_it_is_installed(checkout: Path, wheel: Path, tmp_path: Path) -> None:
    python = environment(tmp_path)
    pip("--python", python, "install", "--ignore-installed", wheel, cwd=tmp_path)
    names = [name for package in MOVED for name in modules(checkout, package)]
    out = run(python, "-c", USE, saved(tmp_path), *names, cwd=tmp_path)
    assert Path(out.split()[0]).is_relative_to(tmp_path / "venv") and "'conv2d': 1" in out
    assert "optgraph compile" in run(python.with_name("optgraph"), "compile", "--help", cwd=tmp_path)


@pytest.fixture(scope="module")
def archive(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive, unpacked."""
    folder = tmp_path_factory.mktemp("archive")
    code = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    run(sys.executable, "-c", code, folder, cwd=checkout)
    (packed,) = folder.glob("*.tar.gz")
    shutil.unpack_archive(packed, folder, filter="data")
    return folder / packed.name.removesuffix(".tar.gz")


def test_the_source_archive_is_the_repository(checkout: Path, archive: Path) -> None:
    kept = run("git", "ls-files", cwd=checkout).split()
    missing = [name for name in kept if not (archive / name).is_file()]
    assert missing == [".ci/run", ".gitignore", *(f"optgraph/{name}" for name in MOVED.values())]  # the links


def test_a_wheel_of_the_source_archive_is_the_wheel(archive: Path, wheel: Path, tmp_path: Path) -> None:
    pip("wheel", "--wheel-dir", tmp_path, archive, cwd=tmp_path)
    (found,) = tmp_path.glob("*.whl")
    assert sorted(zipfile.ZipFile(found).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


def test_the_readme_of_the_package_links_to_no_file(wheel: Path) -> None:
    """A package index has no files of the repository: there they are named, not linked."""
    (metadata,) = (name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("/METADATA"))
    text = zipfile.ZipFile(wheel).read(metadata).decode()
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert links and all(link.startswith("https://") for link in links)
    assert "one script." in text and "](" in (ROOT / "README.md").read_text()


def test_documents_tell_the_version() -> None:
    version = PROJECT["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert re.search(rf"^(## \[)?{re.escape(version)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_every_folder_is_a_package_of_the_project() -> None:
    """setuptools finds none behind a link, so they are listed."""
    folders = {Path(place).parent for place in sources(ROOT)}
    assert sorted(".".join(folder.parts) for folder in folders) == PROJECT["tool"]["setuptools"]["packages"]
    assert PROJECT["tool"]["setuptools"]["package-dir"] == MOVED


def test_documents_and_tools_agree_on_the_python() -> None:
    oldest = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert f"Python {oldest} is what is tested" in (ROOT / "README.md").read_text()
    assert f"Python {oldest} or newer" in (ROOT / "Makefile").read_text()
    assert f"Programming Language :: Python :: {oldest}" in PROJECT["project"]["classifiers"]
    assert PROJECT["tool"]["mypy"]["python_version"] == oldest
    assert PROJECT["tool"]["ruff"]["target-version"] == "py" + oldest.replace(".", "")
