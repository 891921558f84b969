"""Pictures for tables, each of its own colours, and how tests read a table back."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def photos(folder: Path, number: int = 12) -> Path:
    """So many pictures in `folder` and in one inside it, of several sizes and formats."""
    (folder / "inner").mkdir(parents=True)
    rng = np.random.default_rng(7)
    for i in range(number):
        colours = rng.integers(0, 256, (2, 2, 3), np.uint8)
        picture = Image.fromarray(colours).resize((14 + i % 5, 20), Image.Resampling.NEAREST)
        picture.save(folder / ("inner" if i % 3 == 0 else "") / f"{i:03}.{'png' if i % 2 else 'jpg'}")
    return folder


def table(path: Path) -> list[dict[str, Any]]:
    """The rows of a table: of CSV as text, of Parquet as Python's own types."""
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pylist()
