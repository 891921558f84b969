"""A Kernel is what the rest of the compiler knows of one: how it is launched, what it gives, what it is tried on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, eq=False, repr=False)
class Kernel:
    """A kernel's declaration.

    launcher:   makes a Launch of tensors and options; by `tile=`, if it has a choice, of another tile than it would
                choose. Its name is the kernel's.
    reference:  the same in plain torch and float64, with the launcher's arguments: a tensor, or one an output.
    samples:    calls to try it on, by name; see `sample.py`.
    """

    launcher: Callable[..., Any]
    reference: Callable[..., Any] | None = None
    samples: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The kernel's short name, as reports show it."""
        return self.launcher.__name__

    def __repr__(self) -> str:
        return self.name
