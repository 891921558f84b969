"""Checks on what a model holds and asks for, as opposed to what it means."""

from __future__ import annotations

import math

import numpy as np

from optgraph.base.errors import ModelError
from optgraph.ir.graph import Graph
from optgraph.ir.values import Value


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


def check_size(graph: Graph) -> None:
    """Raises ModelError if a single activation of `graph`, for one image, is over its budget's `arena_bytes`."""
    sizes = {name: _size(value) for name, value in graph.values.items() if name not in graph.constants}
    largest = max(sizes, key=sizes.__getitem__)
    node = graph.producer(largest)
    where = f"node '{node.name}' ({node.op.kind})" if node else f"input '{largest}'"
    shape, size = list(graph.shape(largest)), sizes[largest]
    graph.budget.check("arena_bytes", size, f"{where}: a tensor of {shape} takes {size} bytes")


def _size(value: Value) -> int:
    return math.prod(d for d in value.shape if isinstance(d, int)) * np.dtype(value.dtype).itemsize
