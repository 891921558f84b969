"""A Kernel is what the rest of the compiler knows of one: how it is launched, what it gives, what it is tried on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False, repr=False)
class Kernel:
    """A kernel's declaration.

    launcher:   makes a Launch of tensors and options; by `tile=`, if it has a choice, of another tile than it would
                choose. Its name is the kernel's.
    reference:  the same in plain torch and float64, with the launcher's arguments: a tensor, or one an output.
    samples:    calls to try it on, each a Sample (see `sample.py`) and in a word what it tries. All tests of kernels
                draw on them: in the interpreter, on a GPU, in every dtype.
    """

    launcher: Callable[..., Any]
    reference: Callable[..., Any] | None = None
    samples: Callable[[], Iterable[tuple[str, Any]]] = tuple

    @property
    def name(self) -> str:
        """The kernel's short name, as reports show it."""
        return self.launcher.__name__

    def __repr__(self) -> str:
        return self.name
