"""Which optgraph this is. The number is in pyproject.toml and nowhere else."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path


def version() -> str:
    """The version as installed; in a checkout that is not, what its pyproject.toml says; 'unknown' without either."""
    try:
        return metadata.version("optgraph")
    except metadata.PackageNotFoundError:
        declared = Path(__file__).parents[2] / "pyproject.toml"
    try:
        return str(tomllib.loads(declared.read_text())["project"]["version"])
    except (OSError, ValueError, KeyError):
        return "unknown"
