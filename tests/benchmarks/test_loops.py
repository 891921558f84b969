"""Instructions of a main loop, counted in made-up machine code."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.loops import Instruction, step


def code(*names: str) -> Sequence[Instruction]:
    """Instructions by name, `BRA 3` for a branch to the one of that number."""
    parts = [name.split() for name in names]
    return [Instruction(16 * i, name, 16 * int(to[0]) if to else None) for i, (name, *to) in enumerate(parts)]


def test_of_no_loop_all_count() -> None:
    assert step(code("MOV", "BRA 2", "HMMA", "EXIT")) == 4


def test_the_innermost_that_multiplies_counts() -> None:
    assert step(code("MOV", "FADD", "FADD", "FADD", "BRA 1", "FADD", "HGMMA", "BRA 5", "BRA 0")) == 3


def test_without_products_the_longest_counts() -> None:
    assert step(code("MOV", "BRA 0", "FADD", "FADD", "BRA 2")) == 3


def test_what_is_inside_counts_by_row() -> None:
    taps = code("MOV", "LDG", "FFMA", "BRA 1", "HMMA", "BRA 0", "EXIT")
    assert step(taps) == 6
    assert step(taps, rows=3) == 3 * 3 + 3
