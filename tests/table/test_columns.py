"""Columns: of which kind an output's are, and that a table has its numbers to the last bit, in every type."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from optgraph.base.errors import InputError
from optgraph.table.columns import Columns
from optgraph.table.formats import write
from optgraph.table.found import Entry
from optgraph.table.rows import Made, Rows
from tests.support.tables import table

RNG = np.random.default_rng(3)
LOGITS = RNG.standard_normal((4, 6)).astype(np.float32)
SHARES = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)


@pytest.mark.parametrize(
    ("answers", "names"),
    [
        ({"y": SHARES}, ["class_1", "probability_1", "class_2", "probability_2"]),
        ({"y": SHARES[..., None, None]}, ["class_1", "probability_1", "class_2", "probability_2"]),
        ({"y": np.log(SHARES)}, ["class_1", "log_probability_1", "class_2", "log_probability_2"]),
        ({"y": LOGITS}, ["class_1", "logit_1", "softmax_1", "class_2", "logit_2", "softmax_2"]),
        ({"y": 1 / (1 + np.exp(-LOGITS))}, ["class_1", "score_1", "class_2", "score_2"]),
        ({"a": SHARES, "y": LOGITS[:, :1]}, ["a_class_1", "a_probability_1", "a_class_2", "a_probability_2", "y"]),
        ({"path": LOGITS[:, :1], "error": LOGITS[:, 0]}, ["path_", "error_"]),
        ({"y": SHARES.argmax(1)}, ["y"]),
    ],
)  # fmt: skip
def test_names(answers: dict[str, np.ndarray], names: list[str]) -> None:
    assert [column.name for column in Columns(answers, top=2).shown] == names


def test_what_makes_no_columns() -> None:
    with pytest.raises(InputError, match="a table is of numbers"):
        Columns({"y": np.zeros((2, 3), np.complex64)})
    with pytest.raises(InputError, match="a table is of numbers"):
        Columns({"y": np.zeros((2, 0), np.float32)})
    with pytest.raises(InputError, match="two outputs make a column 'a_class_1'"):
        Columns({"a": SHARES, "a_class_1": LOGITS[:, 0]})


def written(path: Path, columns: Columns, answers: dict[str, np.ndarray]) -> list[dict]:
    with Rows(path.with_name("rows"), {}) as rows:
        records, errors = columns.rows(answers, len(next(iter(answers.values()))))
        rows.add([Made(Entry(b"z", ""), "broken")])
        rows.add([
            Made(Entry(str(i).encode(), ""), error, record.tobytes())
            for i, (error, record) in enumerate(zip(errors, records, strict=True))
        ])  # fmt: skip
        rows.finish(path, write(path, columns, rows, {}))
    return table(path)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "bfloat16", "int64", "uint8", "bool"])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_every_number_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, dtype: str) -> None:
    """Block after block; that of a picture that failed is nothing."""
    monkeypatch.setattr("optgraph.table.formats.MOST_ROWS", 3)
    numbers = (100 * RNG.standard_normal((7, 2, 3))).clip(0 if dtype == "uint8" else -99, 99)
    given = {"y": numbers.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype), "one": numbers[:, 0, :1]}
    found = written(tmp_path / f"t.{suffix}", Columns(given, raw=True), given)
    assert [row["path"] for row in found] == [*map(str, range(7)), "z"]
    failed = found.pop()
    assert failed.pop("path") == "z" and failed.pop("error") == "broken"
    assert set(failed.values()) == {"" if suffix == "csv" else None}
    wanted = given["y"].astype(np.float32) if dtype == "bfloat16" else given["y"]
    for row, numbers, one in zip(found, wanted, given["one"], strict=True):
        if suffix == "parquet":
            got, single = (
                np.array(row["y"], wanted.dtype),
                row["one"][0] if isinstance(row["one"], list) else row["one"],
            )
        else:
            cells = [row[f"y_{i}"] for i in range(6)]
            got = np.array([cell == "True" for cell in cells] if dtype == "bool" else cells, wanted.dtype)
            single = float(row["one"])
        assert np.array_equal(got, numbers.ravel()) and single == one[0]
