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
    "int8_ms": 22.16,
    "int8_ratio": 1.806,
    "spread": {"ours": {"iqr": 1.23}, "theirs": {"iqr": 2.0}},
}


COST = {
    "graph": "torch_xception",
    "batch": 8,
    "launches": 40,
    "waves": 30,
    "activation_mb": 96.94,
    "gflop": 16.71,
    "predicted_us": {"sm_90": [84.2, 120.4], "sm_80": [150.4, 200.0], "sm_89": [9.94, 14.0], "sm_86": [1.0, 2.0]},
    "roofline_us": {"sm_90": 38.4, "sm_80": 90.0},
}
KERNEL = {"table": "bounds", "graph": "a", "batch": 1, "kernel": "pool", "launches": 3, "us": [10.0, 12.0]}


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
    assert "| torch_xception | 40.0 | 50.1 | 1.25 | 0.3 | 1.2 / 2.0 | 22.2 (1.81×) |\n" in text
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
    row = "| torch_xception | 8 | 40 | 30 | 96.9 | 16.7 | 84-120 | 150-200 | 9.9-14.0 | 1.0-2.0 | 38 |\n"
    assert row in text
    assert "Predicted by `python -m benchmarks.cost`" in text and "no GPU was used" in text
    assert record.environment()["device"] not in text


def test_int8_stands_beside_fp16(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    counts = {"launches": 60, "waves": 50, "fallbacks": 0, "products": 40, "int8_products": 39}
    int8 = COST | counts | {"table": "int8", "activation_mb": 50.0, "predicted_us": {"sm_90": [60.0, 90.0]}}
    other = COST | {"table": "cost", "batch": 1, "activation_mb": 1.0}
    record.write("cost", [other, COST | {"table": "cost"}, int8], prediction=True)
    row = "| torch_xception | 8 | 60 | 0 | 40 | 39 | 50.0 | 96.9 | 60-90 | 84-120 | 38 |\n"
    assert row in tables.table("int8") and "| 60 |" not in tables.table("cost")


def test_ranges_stand_beside_goals_and_what_binds_them(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    common = {"table": "goals", "launches": 80, "waves": 50, "before_us": 221, "tiles_us": [180.0, 390.0]}
    goals = [
        {**common, "graph": name, "batch": 1, "now_us": now, "goal_us": 150}
        for name, now in (("a", [100.0, 150.0]), ("b", [100.0, 151.0]), ("c", [151.0, 200.0]))
    ]
    record.write("cost", [*goals, KERNEL | {"bounds": {"chain": 2, "memory": 1}}], prediction=True)
    text = tables.table("goals")
    assert "| a | 1 | 80 | 50 | 221 | 100-150 | 180-390 | 150 | met |\n" in text
    assert "| 150 | within |\n" in text and "| 151-200 | 180-390 | 150 | missed |\n" in text
    assert "| a | 1 | pool | 3 | 10.0-12.0 | chain 2, memory 1 |\n" in tables.table("bounds")
