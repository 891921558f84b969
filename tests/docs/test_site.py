"""The documentation builds as a site: every link leads somewhere, and nothing is fetched from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command_name

import optgraph
from optgraph.cli.main import app
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    run = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", folder],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


def test_every_public_name_has_its_entry(site: Path) -> None:
    page = (site / "reference" / "api.html").read_text()
    entries = {entry.split(".")[-1] for entry in re.findall(r'<h3 id="([\w.]+)"', page)}
    assert set(optgraph.__all__) <= entries


def test_every_command_has_its_section(site: Path) -> None:
    page = (site / "reference" / "cli.html").read_text()
    for command in app.registered_commands:
        assert command.callback
        assert f"optgraph {get_command_name(command.callback.__name__)}</code>" in page
    assert re.search(r"<pre>.*optgraph compile inception_v3\.onnx", page, re.DOTALL), "examples are code"


def test_pages_that_lie_elsewhere_are_there_and_linked(site: Path) -> None:
    home = (site / "index.html").read_text()
    for page in ("contributing.html", "results.html", "usage.html"):
        assert f'href="{page}' in home.partition("<article")[2] and (site / page).exists()
    assert 'href="examples/' not in home, "files that the site has not are named, not linked"


def test_a_page_fetches_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        fetched = re.findall(r'<(?:script|link|img)\b[^>]*\b(?:src|href)="?(https?:[^">]*)', page.read_text())
        assert not fetched, page
