"""What a network answered, as data and for people."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from rich.console import Console

from optgraph.pictures.scores import kind_of_scores
from optgraph.report.results import results_dict, results_parts


def text(*arguments: object, width: int = 80, **options: object) -> str:
    console = Console(file=io.StringIO(), width=width)
    for part in results_parts(*arguments, **options):  # type: ignore[arg-type]
        console.print(part, soft_wrap=isinstance(part, str))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_best_classes() -> None:
    scores = np.array([[0.1, 0.7, 0.05, 0.15], [4.0, 3.0, 4.0, 1.0]], np.float32)
    found = results_dict({"y": scores, "mask": scores > 1, "map": scores[None], "one": scores[:, :1]})
    assert [[c["class"] for c in image] for image in found["y"]["top"]] == [[1, 3, 0, 2], [0, 2, 1, 3]]
    assert found["y"]["top"][1][0]["score"] == 4.0 and "name" not in found["y"]["top"][1][0]
    assert found["y"]["shape"] == [2, 4] and found["y"]["dtype"] == "float32"
    assert [found[name]["top"] for name in ("mask", "map", "one")] == [None] * 3
    many = results_dict({"y": np.arange(30.0).reshape(1, 30)})
    assert [c["class"] for c in many["y"]["top"][0]] == [29, 28, 27, 26, 25]
    assert len(results_dict({"y": np.eye(9)}, top=7)["y"]["top"][8]) == 7


def test_names_go_where_there_are_as_many() -> None:
    found = results_dict({"y": np.eye(3)[:1], "z": np.eye(4)[:1]}, ["cat", "dog", "[bold]eel"])
    assert [c["name"] for c in found["y"]["top"][0]] == ["cat", "dog", "[bold]eel"]
    assert "name" not in found["z"]["top"][0][0]
    assert "[bold]eel" in text(found)


def test_classes_of_a_convolution() -> None:
    found = results_dict({"y": np.eye(3)[:2].reshape(2, 3, 1, 1)})
    assert [c["class"] for c in found["y"]["top"][1]] == [1, 0, 2] and found["y"]["shape"] == [2, 3, 1, 1]


LOGITS = np.random.default_rng(0).normal(0, 3, (4, 1000))
SOFT = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)


@pytest.mark.parametrize(
    ("scores", "kind"),
    [
        (SOFT, "probability"),
        (SOFT.astype(np.float16), "probability"),
        (np.log(SOFT), "log-probability"),
        (LOGITS, "logit"),
        (1 / (1 + np.exp(-LOGITS)), "score"),  # sigmoids: each class by itself
        (SOFT * 0.9, "score"),
        (np.array([[0.5, 0.5], [2.0, -1.0]]), "logit"),
        (np.array([[0.5, np.nan]]), "score"),
    ],
)
def test_what_the_scores_are(scores: np.ndarray, kind: str) -> None:
    assert kind_of_scores(scores) == kind


def test_logits_come_with_their_softmax() -> None:
    best = results_dict({"y": LOGITS})["y"]["top"][2]
    assert [c["softmax"] for c in best] == pytest.approx(np.sort(SOFT[2])[::-1][:5].tolist())
    assert "softmax" not in results_dict({"y": SOFT})["y"]["top"][0][0]


def test_what_is_no_classes_has_a_range() -> None:
    boxes = np.array([[[-2.0, 0.5], [7.0, 0.5]]], np.float32)
    found = results_dict({"boxes": boxes, "none": np.zeros((0, 4), np.float32), "n": np.int64(3)[None][0:1]})
    assert (found["boxes"]["min"], found["boxes"]["max"], found["boxes"]["mean"]) == (-2.0, 7.0, 1.5)
    shown = text(found)
    assert "boxes: 1×2×2 float32, min -2, max 7, mean 1.5" in shown
    assert "none: 0×4 float32\n" in shown and "n: 1 int64, min 3, max 3, mean 3" in shown
    boxes[0, 0, 0] = np.nan
    assert "1 numbers not finite" in text(results_dict({"boxes": boxes}))


def test_images_are_told_apart_by_name() -> None:
    found = results_dict({"y": np.eye(3)})
    assert re.findall(r"^(?:a|b|image).*$", text(found, ["a.png", "b.png"]), re.M) == ["a.png", "b.png", "image 2"]
    assert "image" not in text(results_dict({"y": np.eye(3)[:1]}))


@pytest.mark.parametrize("width", [80, 40, 28])
def test_a_narrow_terminal_breaks_names_and_no_numbers(width: int) -> None:
    names = [f"{i}: a class of a long name, of several words" for i in range(1000)]
    found = results_dict({"logits": LOGITS}, names)
    shown = text(found, width=width)
    assert max(map(len, shown.splitlines())) <= width
    rows = {(words[0], *words[-2:]) for words in map(str.split, shown.splitlines()) if len(words) > 2}
    for image in found["logits"]["top"]:
        assert {(str(best["class"]), f"{best['score']:#.4g}", f"{best['softmax']:.2%}") for best in image} <= rows
