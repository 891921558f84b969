"""What the host does in a call of a network on a GPU that replays: how many steps, which are the same every time."""

from __future__ import annotations

import pytest

from benchmarks.host import calls, steps

# Some more than there are, for Python's versions differ: 3.11 has a step for every comprehension.
BOUNDS = {
    "a tensor": {"python": 30, "c": 33, "torch": 2},
    "an array": {"python": 40, "c": 43, "torch": 5},
    "bound buffers": {"python": 16, "c": 9, "torch": 0},
}


def test_a_call_takes_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {name: steps(call) for name, call in calls(monkeypatch).items()}
    assert found.keys() == BOUNDS.keys()
    for name, counts in found.items():
        over = {kind: count for kind, count in counts.items() if count > BOUNDS[name][kind]}
        assert not over, f"{name}: {over}, at most {BOUNDS[name]}"
        assert counts["python"] > BOUNDS[name]["python"] / 2  # it was counted
