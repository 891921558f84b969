"""Instructions of a step of a main loop, counted in made-up machine code."""

from __future__ import annotations

from benchmarks.loops import step
from tests.cost.test_machine_code import code


def test_of_no_loop_all_count() -> None:
    assert step(code("MOV", "BRA @2", "HMMA.16816.F32", "EXIT")) == 4


def test_what_is_inside_counts_by_row() -> None:
    taps = code("MOV", "LDG", "FFMA", "BRA @1", "HMMA.16816.F32", "BRA @0", "EXIT")
    assert step(taps) == 6
    assert step(taps, rows=3) == 3 * 3 + 3
