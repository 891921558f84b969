"""A small classifier for the commands to work on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cli_models import saved


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return saved(tmp_path)
