"""What a graph costs to run one operator at a time: activation bytes, counted and never timed."""

from __future__ import annotations

import math

from optgraph.graph import Graph
from optgraph.lower import STORAGE, fitting_batch
from optgraph.ops import Identity, Reshape
from optgraph.plan import ITEMSIZE


def bytes_per_image(graph: Graph, dtype: str = "fp32") -> int:
    """Activation bytes that one image moves when every operator reads its inputs and writes its outputs once.

    Weights do not count (a batch shares them), nor operators that move nothing. Floating values count at `dtype`.
    """
    itemsize = ITEMSIZE[STORAGE[dtype]]
    total = 0
    for node in graph.nodes():
        if isinstance(node.op, Identity | Reshape):
            continue
        for value in (*node.inputs, *node.outputs):
            if value and value not in graph.constants:
                total += math.prod(d for d in graph.values[value].shape if isinstance(d, int)) * itemsize
    return total // fitting_batch({name: graph.values[name] for name in graph.inputs}, 1)


def weight_bytes(graph: Graph, dtype: str = "fp32") -> int:
    """Bytes of all constants, floating ones at `dtype`."""
    itemsize = ITEMSIZE[STORAGE[dtype]]
    return sum(a.size * itemsize if a.dtype.kind == "f" else a.nbytes for a in graph.constants.values())
