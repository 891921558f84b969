"""Errors meant for people: one line that says what is wrong, where, and what to do about it."""

from __future__ import annotations

# The remedy where a size that a model leaves open is needed; `ir/checks.py` spells it out for the model.
FIX_INPUT = "fix the input shape (--input-shape)"


def printable(text: str) -> str:
    """`text` in one line, with nothing that a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in text)


class OptgraphError(Exception):
    """Base of every error a user can cause. `str(error)` is one printable line, whatever names a file has."""

    def __str__(self) -> str:
        return printable(super().__str__())


class ModelError(OptgraphError):
    """The model cannot be read, or means something we cannot compile.

    Attributes:
        reason: what is wrong.
        remedy: what to do about it; '' where the reason says it all.
        attribute: the attribute of the node that is at fault, if one is.
        where: the node, once known.
    """

    def __init__(self, reason: str, remedy: str = "", attribute: str = "", where: str = "") -> None:
        super().__init__(": ".join(part for part in (where, reason, remedy) if part))
        self.reason, self.remedy, self.attribute, self.where = reason, remedy, attribute, where

    def at(self, where: str) -> ModelError:
        """The same error, saying where it is, unless it says so already."""
        return self if self.where else ModelError(self.reason, self.remedy, self.attribute, where)


class InputError(OptgraphError):
    """A tensor, option or file given at run time does not fit the model."""


class ArtifactError(OptgraphError):
    """A .optgraph file is damaged, or of another version."""


class GraphError(OptgraphError):
    """A graph broke an invariant: a pass has a bug. `Graph.verify` raises it."""


class NoKernelError(Exception):
    """A node has no kernel, or not for this use: its lowering raises it with the reason, and it runs as a fallback."""
