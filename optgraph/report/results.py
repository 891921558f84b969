"""What a network answered: the best classes of each image, by name; of what is no classes, the range of its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from optgraph.pictures.labels import classes
from optgraph.pictures.scores import LOGIT, PROBABILITY, best, kind_of_scores, softmax
from optgraph.report.layout import plain
from optgraph.report.tables import number

TOP = 5  # classes of an image
TOLD = 5  # pictures of which is said what was done to them


def results_dict(
    results: Mapping[str, np.ndarray], labels: Sequence[str] = (), top: int = TOP
) -> dict[str, dict[str, Any]]:
    """Of each output shape, dtype, least, greatest and mean number, as plain data; where it has scores of classes,
    what these are, and the best of each image, with their names, where it has as many classes as there are `labels`."""
    return {name: _result(array, labels, top) for name, array in results.items()}


def _result(array: np.ndarray, labels: Sequence[str], top: int) -> dict[str, Any]:
    numbers = array.astype(np.float64) if array.size and array.dtype.kind in "fiub" else None
    data: dict[str, Any] = {"shape": list(array.shape), "dtype": str(array.dtype)}
    for what, function in (("min", np.min), ("max", np.max), ("mean", np.mean)):
        data[what] = None if numbers is None else float(function(numbers))
    data["not_finite"] = 0 if numbers is None else int(np.size(numbers) - np.isfinite(numbers).sum())
    is_scores = classes(array.shape) is not None and array.dtype.kind == "f" and numbers is not None
    scores = array.reshape(len(array), -1) if is_scores else None
    data["scores"] = None if scores is None else kind_of_scores(scores)
    data["top"] = None if scores is None else _best(scores, data["scores"], labels, top)
    return data


def _best(scores: np.ndarray, kind: str, labels: Sequence[str], top: int) -> list[list[dict[str, Any]]]:
    """The highest scores of each image, best first; of logits what a softmax makes of them, too."""
    shares = softmax(scores) if kind == LOGIT else None
    found = []
    for i, classes_of in enumerate(best(scores, top)):
        entries = []
        for index in map(int, classes_of):
            entry: dict[str, Any] = {"class": index, "score": float(scores[i, index])}
            if len(labels) == scores.shape[1]:
                entry["name"] = labels[index]
            if shares is not None:
                entry["softmax"] = float(shares[i, index])
            entries.append(entry)
        found.append(entries)
    return found


def results_parts(results: Mapping[str, Mapping[str, Any]], images: Sequence[str] = ()) -> list[RenderableType]:
    """A `results_dict` for people: a line for each output, and a table for each image. images: what they are called."""
    parts: list[RenderableType] = []
    for name, result in results.items():
        parts.append(f"{name}: {_described(result)}")
        for i, row in enumerate(result["top"] or ()):
            table = _best_table(row, result["scores"])
            called = plain(images[i] if i < len(images) else f"image {i}")
            parts.append(Group(called, table) if len(result["top"]) > 1 else table)
    return parts


def pictures_parts(done: Sequence[str]) -> list[RenderableType]:
    """What was done to pictures, a line each, of many the first, broken between words; [] if there were none."""
    more = [f"and {len(done) - TOLD} more in the same way"] if len(done) > TOLD else []
    return [Text("\n", overflow="fold").join(map(plain, [*done[:TOLD], *more]))] if done else []


def table_parts(data: Mapping[str, Any]) -> list[RenderableType]:
    """What became of a table: what was done to its pictures, how many there are, which failed, and where it is."""
    told = [f"{data['rows']:,} pictures"]
    told += [f"{data['before']:,} of them before"] if data["before"] else []
    told += [f"{data['failed']:,} failed"] if data["failed"] else []
    told += [f"{data['pictures_per_second']:,} a second"] if data["pictures_per_second"] else []
    lines = [f"{', '.join(told)} on {data['backend']}"]
    lines += [f"  {plain(each['picture'])}: {plain(each['error'])}" for each in data["errors"]]
    more = data["failed"] - len(data["errors"])
    lines += [f"  and {more:,} more: see the column 'error'"] if more else []
    return [data["preprocessing"], "\n".join(lines), f"wrote {data['output']}"]


def _described(result: Mapping[str, Any]) -> str:
    shape = "×".join(map(str, result["shape"])) or "scalar"
    if result["scores"]:
        kind = result["scores"]
        return f"{shape}, {'probabilities' if kind == PROBABILITY else f'{kind}s'}"
    if result["min"] is None:
        return f"{shape} {result['dtype']}"
    told = ", ".join(f"{what} {number(result[what])}" for what in ("min", "max", "mean"))
    if result["not_finite"]:
        told = f"{result['not_finite']} numbers not finite"
    return f"{shape} {result['dtype']}, {told}"


def _best_table(best: Sequence[Mapping[str, Any]], kind: str) -> Table:
    """Numbers keep their columns whole; names are folded where the terminal is narrow."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("class", justify="right", no_wrap=True)
    if "name" in best[0]:
        table.add_column("name", overflow="fold")
    table.add_column(kind, justify="right", no_wrap=True)
    if kind == LOGIT:
        table.add_column("softmax", justify="right", no_wrap=True)
    for entry in best:
        row: list[str | Text] = [str(entry["class"])]
        row += [plain(entry["name"])] if "name" in entry else []
        row += [f"{entry['score']:.2%}" if kind == PROBABILITY else f"{entry['score']:#.4g}"]
        row += [f"{entry['softmax']:.2%}"] if kind == LOGIT else []
        table.add_row(*row)
    return table
