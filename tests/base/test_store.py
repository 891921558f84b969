"""Records that outlive the process: what is gone on from, tried again, and left."""

from __future__ import annotations

import json

import pytest

from optgraph.base.store import Store


def test_a_store_goes_on_where_it_stopped_unless_something_changed(tmp_path) -> None:
    path, done = tmp_path / "new" / "r.json", []
    tasks = [(name, lambda n=name: done.append(n) or {"n": n}) for name in "abc"]
    clock = iter([0.0, 1.0, 2.0])
    assert not Store(path, {"gpu": 1}, {"date": "1"}).complete(tasks, 1.5, lambda: next(clock))
    assert done == ["a", "b"]
    assert Store(path, {"gpu": 1}, {"date": "2"}).complete(tasks, 1.0, lambda: 0.0)
    assert done == ["a", "b", "c"]
    written = json.loads(path.read_text())
    assert written["date"] == "2" and list(written["records"]) == ["a", "b", "c"]
    assert Store(path, {"gpu": 2}).records == {}


def test_a_task_that_ends_its_process_is_tried_last_and_then_left(tmp_path) -> None:
    done: list[str] = []

    def call(*deadly: str) -> bool:
        """What a process does that ends with the first deadly task."""

        def task(name: str) -> dict[str, str]:
            done.append(name)
            if name in deadly:
                raise SystemExit
            return {"n": name}

        tasks = [(name, lambda n=name: task(n)) for name in "abc"]
        return Store(tmp_path / "r.json", {"gpu": 1}).complete(tasks, 1.0, lambda: 0.0)

    for expected in ("a", "bca"):
        with pytest.raises(SystemExit):
            call("a")
        assert "".join(done) == expected
        del done[:]
    store = Store(tmp_path / "r.json", {"gpu": 1})
    assert store.begun == {"a": 2} and list(store.records) == ["b", "c"]
    assert call("a") and not done


def test_a_task_that_ran_out_of_time_once_is_done_the_next_time(tmp_path) -> None:
    def killed() -> dict[str, str]:
        raise SystemExit

    with pytest.raises(SystemExit):
        Store(tmp_path / "r.json", {}).complete([("a", killed)], 1.0, lambda: 0.0)
    store = Store(tmp_path / "r.json", {})
    assert store.complete([("a", lambda: {"n": 1})], 1.0, lambda: 0.0) and store.records == {"a": {"n": 1}}
    assert not store.begun and "begun" not in json.loads((tmp_path / "r.json").read_text())


def test_why_a_task_failed_is_kept_until_it_is_done(tmp_path) -> None:
    path = tmp_path / "r.json"
    store = Store(path, {})
    store.begin("a")
    store.fail("a", "it hung")
    assert json.loads(path.read_text())["failed"] == {"a": "it hung"}
    again = Store(path, {})
    assert again.failed == {"a": "it hung"} and again.begun == {"a": 1} and not again.records
    again.add("a", {"n": 1})
    assert Store(path, {}).failed == {} and "failed" not in json.loads(path.read_text())
