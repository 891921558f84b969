"""Errors meant for people: one line that says what is wrong, where, and what to do about it."""


class OptgraphError(Exception):
    """Base of every error a user can cause. `str(error)` is one line."""


class ModelError(OptgraphError):
    """The model cannot be read, or means something we cannot compile."""


class InputError(OptgraphError):
    """A tensor, option or file given at run time does not fit the model."""


class ArtifactError(OptgraphError):
    """A .optgraph file is damaged, or of another version."""


class GraphError(OptgraphError):
    """A graph broke an invariant: a pass has a bug. `Graph.verify` raises it."""
