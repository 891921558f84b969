"""Which rows of benchmarks.paper are made again."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import paper, paper_rows
from benchmarks.paper import Task
from optgraph.base.devices import SM_90


def row(value: int) -> dict[str, Any]:
    return {"value": value}


def key(value: int) -> str:
    return f"of {value}"


def broken(value: int) -> dict[str, Any]:
    raise AssertionError(f"{value} is wrong")


def test_a_row_is_kept_while_its_key_stays() -> None:
    task = Task({"graph": "a"}, row, key, (1,))
    made = task(None)
    assert made["graph"] == "a" and made["value"] == 1 and made["key"] == "of 1"
    assert task({**made, "value": 2})["value"] == 2
    assert task({**made, "value": 2, "key": "of another"})["value"] == 1


def test_what_is_wrong_stops_no_other_row(capfd: pytest.CaptureFixture[str]) -> None:
    tasks = [Task({"graph": "a"}, broken, key, (1,)), Task({"graph": "b"}, row, key, (2,))]
    found = []
    with pytest.raises(AssertionError, match="1 is wrong"):
        found.extend(made for _, made in paper.run(tasks, [], workers=1))
    assert [made["value"] for made in found] == [2]
    assert "1 is wrong" in capfd.readouterr().out


def test_a_networks_key_follows_what_is_launched() -> None:
    """On the smallest of the three: of another batch or dtype, it is another."""
    case = ("xception", 71, "fp16", SM_90, 1, False)
    again, batch = (paper_rows.network_key(*case[:4], n, False) for n in (1, 3))
    assert paper_rows.network_key(*case) == again != batch


def test_every_network_dtype_target_and_batch_has_a_row() -> None:
    said = [task.said for task in paper.tasks()]
    assert len({str(row) for row in said}) == len(said)
    assert sum(row["table"] == "paper" for row in said) == 3 * 4 * 2 * 2 + 1
