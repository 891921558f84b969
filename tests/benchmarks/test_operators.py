"""The table of operators is what the code says."""

from __future__ import annotations

import pytest

from benchmarks import operators
from optgraph.ops.standard.table import FUNCTIONS


@pytest.fixture(scope="module")
def rows() -> list[operators.Row]:
    return operators.rows()


def test_the_table_is_what_the_code_says(rows: list[operators.Row]) -> None:
    assert operators.DOCUMENT.read_text() == operators.document(rows), "run python -m benchmarks.operators"


def test_how_an_operator_is_judged(rows: list[operators.Row]) -> None:
    ways = {row.operator: row.way for row in rows}
    assert [ways[name] for name in ("Conv", "GridSample", "RoiAlign", "MaxRoiPool", "Scan", "SequenceEmpty")] == [
        *("kernel", "torch", "reference", "refused", "refused", "refused")
    ]
    assert ways["BatchNormalization"] == "kernel"  # it has none of its own: it becomes an affine map, which has
    assert {ways[name] for name in FUNCTIONS} == {"kernel", "torch"}
