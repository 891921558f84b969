"""How long work says how far it is."""

from __future__ import annotations

from collections.abc import Callable

Counted = Callable[[int, int, int], None]  # how many are done, of how many, and how many of them failed
Progress = Callable[[str, float], None]  # what is being done, and how much of it, from 0 to 1


def silent(what: str, done: float) -> None:
    """A Progress that nobody sees."""


def uncounted(done: int, total: int, failed: int) -> None:
    """A Counted that nobody sees."""
