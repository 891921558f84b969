"""The notebook runs from its first cell to its last, and is kept without what it printed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT

NOTEBOOK = ROOT / "examples" / "first_look.ipynb"


def test_it_runs(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("TRITON_INTERPRET", "OPTGRAPH_"))}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--nbmake", "-p", "no:cacheprovider", NOTEBOOK],
        cwd=ROOT,
        env=environment | {"IPYTHONDIR": str(tmp_path), "JUPYTER_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0 and "1 passed" in run.stdout, run.stdout + run.stderr


def test_it_has_no_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert any(cell["cell_type"] == "code" for cell in cells)
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in cells)
