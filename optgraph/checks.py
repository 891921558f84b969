"""Checks on what a model holds, as opposed to what it means."""

from __future__ import annotations

import numpy as np

from optgraph.errors import ModelError
from optgraph.graph import Graph


def check_finite(graph: Graph) -> None:
    """Raises ModelError, naming the weight and the first node that reads it, if a weight has a NaN or an infinity.

    A single number may be infinite: it is a bound, such as a Clip without one, or the value of a Pad.
    """
    for name, array in graph.constants.items():
        if not str(array.dtype).startswith(("float", "bfloat")):
            continue
        bad = np.isnan(array) if array.size == 1 else ~np.isfinite(array)
        if not bad.any():
            continue
        users = graph.users(name)
        reader = f", read by node '{users[0][0].name}' ({users[0][0].op.kind})," if users else ""
        raise ModelError(
            f"weight '{name}'{reader} has {np.count_nonzero(bad)} of {array.size} values that are NaN or infinite: "
            "export the model again from a sound checkpoint"
        )
