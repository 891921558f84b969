"""A network whose first input has no batch: a shift of every channel, beside the images."""

from __future__ import annotations

import numpy as np

from optgraph.ir.graph import Graph
from optgraph.ir.values import BATCH, RELU, Dim, Value
from optgraph.ops import Activation, Binary, Conv


def shifted(batch: Dim = BATCH) -> Graph:
    """y = relu(conv(x + a)) of `a` [3, 1, 1] and `x` [batch, 3, 8, 8]; and x + a once more, as output `sum`."""
    rng = np.random.default_rng(0)
    graph = Graph()
    a = graph.add_input("a", Value((3, 1, 1)))
    x = graph.add_input("x", Value((batch, 3, 8, 8)))
    moved = graph.add(Binary(fn="add"), (x, a), origin=("add",)).output
    w = graph.add_constant(rng.standard_normal((4, 3, 3, 3), np.float32) / 5)
    y = graph.add(Conv(kernel=(3, 3), pads=(1, 1, 1, 1)), (moved, w), origin=("conv",)).output
    graph.outputs = {"y": graph.add(Activation(act=RELU), (y,), origin=("relu",)).output, "sum": moved}
    graph.verify()
    return graph
