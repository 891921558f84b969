"""Tests that need an NVIDIA GPU, where they are skipped without one: `make gpu`, or

    OPTGRAPH_TEST_GPU=1 python -m pytest -m gpu tests/gpu

OPTGRAPH_TEST_PASSED=FILE keeps which of them passed, and leaves these out of the next run on the same GPU and code.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from benchmarks import record
from optgraph.base.store import Store

HERE = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reason = _obstacle()
    passed = _passed() if not reason else None
    done = []
    for item in items:
        if HERE in item.path.parents:
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))
            if passed is not None and item.nodeid in passed.records:
                done.append(item)
    if done:
        config.hook.pytest_deselected(items=done)
        items[:] = [item for item in items if item not in done]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    # With pytest-xdist every worker reports to the process that started it, and that one keeps the file.
    if report.when == "call" and report.passed and not os.environ.get("PYTEST_XDIST_WORKER"):
        passed = _passed() if HERE.name in Path(report.nodeid).parts and not _obstacle() else None
        if passed is not None:
            passed.add(report.nodeid, {"seconds": round(report.duration, 2)})


def _obstacle() -> str:
    """Why no GPU test can run here; '' if they can."""
    if not torch.cuda.is_available():
        return "needs an NVIDIA GPU: torch sees none"
    if os.environ.get("TRITON_INTERPRET"):
        return "Triton interprets in this process: set OPTGRAPH_TEST_GPU=1, as make gpu does"
    return ""


def _passed() -> Store | None:
    file = os.environ.get("OPTGRAPH_TEST_PASSED")
    return Store(Path(file), record.identity()) if file else None
