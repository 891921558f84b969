"""Tests that need an NVIDIA GPU, where they are skipped without one: `make gpu`, which does them one by one, or

OPTGRAPH_TEST_GPU=1 python -m pytest -m gpu tests/gpu
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = _obstacle()
    for item in items:
        if reason and HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))


def _obstacle() -> str:
    """Why no GPU test can run here; '' if they can."""
    if not torch.cuda.is_available():
        return "needs an NVIDIA GPU: torch sees none"
    if os.environ.get("TRITON_INTERPRET"):
        return "Triton interprets in this process: set OPTGRAPH_TEST_GPU=1, as make gpu does"
    return ""
