"""PP-OCRv4's three trained networks in their own pipeline: boxes and text, as ONNX Runtime has them.

The pipeline finds lines of text, turns those that are upside down, and reads them. Its networks are called with
pictures of any size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optgraph
from optgraph.onnx.sessions import session

# A first size for each; the others are made as they come.
SIZES = {
    "ch_PP-OCRv4_det_infer": (96, 96),
    "ch_ppocr_mobile_v2.0_cls_infer": (48, 192),
    "ch_PP-OCRv4_rec_infer": (48, 320),
}


class _Running:
    """Stands in for a session of the pipeline: called with a batch, it gives a list of outputs, and keeps both."""

    def __init__(self, run: Any) -> None:
        self._run = run
        self.calls: list[tuple[np.ndarray, np.ndarray]] = []

    def __call__(self, x: np.ndarray) -> list[np.ndarray]:
        result = np.asarray(self._run(x))
        self.calls.append((x, result))
        return [result]


def _pipeline(make: Any) -> tuple[Any, list[_Running]]:
    """The pipeline, with each of its networks made by `make` from its file."""
    from rapidocr_onnxruntime import RapidOCR

    ocr = RapidOCR()
    ocr.text_det.limit_type = "max"  # pictures as they are: not made larger, which the interpreter would pay for
    running = []
    for stage, attribute in ((ocr.text_det, "infer"), (ocr.text_cls, "infer"), (ocr.text_rec, "session")):
        file = Path(getattr(stage, attribute).session._model_path)
        running.append(_Running(make(file)))
        setattr(stage, attribute, running[-1])
    return ocr, running


def _reference(file: Path) -> Any:
    running = session(str(file), optimize=False)
    return lambda x: running.run(None, {"x": x})[0]


def _read(ocr: Any, image: np.ndarray) -> list[tuple[np.ndarray, str, float]]:
    found, _ = ocr(image)
    return [(np.array(box), text, float(score)) for box, text, score in found or []]


@pytest.fixture(scope="module")
def wanted(pages: dict[str, np.ndarray]) -> dict[str, list[tuple[np.ndarray, str, float]]]:
    ocr, _ = _pipeline(_reference)
    return {name: _read(ocr, image) for name, image in pages.items()}


def test_the_reference_reads(wanted: dict[str, list[tuple[np.ndarray, str, float]]]) -> None:
    assert any("segmentation" in text for _, text, _ in wanted["page"])


@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "interpret"])
def test_same_boxes_and_text(
    backend: str, pages: dict[str, np.ndarray], wanted: dict[str, list[tuple[np.ndarray, str, float]]]
) -> None:
    ocr, running = _pipeline(lambda file: optgraph.compile(file, backend, sizes=[SIZES[file.stem]]))
    for name, image in pages.items():
        lines = _read(ocr, image)
        assert [text for _, text, _ in lines] == [text for _, text, _ in wanted[name]]
        for (box, _, score), (other, _, expected) in zip(lines, wanted[name], strict=True):
            np.testing.assert_allclose(box, other, atol=1)
            assert score == pytest.approx(expected, abs=1e-3)
    assert all(one.calls for one in running)
