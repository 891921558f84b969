"""The documents' tables are what the results say."""

import json
from pathlib import Path

import pytest

from benchmarks import record, tables

ROW = {
    "graph": "torch_xception",
    "ours_ms": 40.04,
    "theirs_ms": 50.06,
    "compile_seconds": 0.34,
    "ratio": 1.254,
    "spread": {"ours": {"iqr": 1.23}, "theirs": {"iqr": 2.0}},
}


COST = {
    "graph": "torch_xception",
    "batch": 8,
    "launches": 40,
    "waves": 30,
    "activation_mb": 96.94,
    "gflop": 16.71,
    "predicted_us": {"sm_90": 84.2, "sm_80": 150.4},
    "roofline_us": {"sm_90": 38.4, "sm_80": 90.0},
    "bounds": {"sm_90": {"bytes": 30, "latency": 10}, "sm_80": {}},
}


def test_every_table_is_in_one_document() -> None:
    assert sorted(name for document in tables.DOCUMENTS for name in tables.names(document)) == sorted(tables.TABLES)


@pytest.mark.parametrize("document", tables.DOCUMENTS, ids=lambda path: path.name)
def test_a_document_has_its_tables_as_generated(document: Path) -> None:
    text = document.read_text()
    assert tables.names(document)
    assert tables.fill(text) == text, "run python -m benchmarks.tables"


def test_a_table_shows_its_rows_and_how_they_were_measured(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    path = record.write("cpu", [ROW], batch=1)
    text = tables.fill("before\n<!-- table:cpu -->\nold\n<!-- end -->\nafter\n")
    assert "| torch_xception | 40.0 | 50.1 | 1.25 | 0.3 | 1.2 / 2.0 |\n" in text
    assert "`python -m benchmarks.cpu` on " + json.loads(path.read_text())["date"] in text
    assert text.startswith("before\n<!-- table:cpu -->\n") and text.endswith("\n<!-- end -->\nafter\n")
    assert "old" not in text and tables.fill(text) == text


def test_what_was_not_measured_says_so(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    assert "Not measured yet: `python -m benchmarks.cpu`." in tables.table("cpu")


def test_an_unknown_table_is_an_error() -> None:
    with pytest.raises(KeyError, match="speed"):
        tables.fill("<!-- table:speed -->\n<!-- end -->")


def test_a_prediction_is_called_one(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    record.write("cost", [COST], prediction=True)
    text = tables.table("cost")
    assert "| torch_xception | 8 | 40 | 30 | 96.9 | 16.7 | 84 | 150 | 38 | 25% / 75% / 0% |\n" in text
    assert "Predicted by `python -m benchmarks.cost`" in text and "no GPU was used" in text
    assert record.environment()["device"] not in text
