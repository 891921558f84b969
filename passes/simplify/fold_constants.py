"""Nodes whose inputs are all constants are evaluated now.

    f(c1, c2, ...)  ->  c

Legal: f always answers the same (no random numbers) and what folding adds to the constants, less those that go, stays
within a budget. The size is judged from shapes before anything is computed: a model of 156 bytes can ask for 32 GiB of
zeros.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from optgraph.ir.graph import Graph, Node
from optgraph.ops import Opaque
from optgraph.passes.rewrite import Outcome, Rule, sweep

_FILLS = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
RANDOM = frozenset({"Bernoulli", "Dropout", "Multinomial"} | _FILLS)


@dataclass
class _Found:
    node: Node
    growth: int = 0  # bytes that the constants grow by
    arrays: list[np.ndarray] = field(default_factory=list)  # the outputs, once `check` has let them be computed


def _match(graph: Graph, node: Node) -> _Found | None:
    return _Found(node) if all(not value or value in graph.constants for value in node.inputs) else None


def _check(graph: Graph, found: _Found, left: int) -> str | None:
    node = found.node
    if isinstance(node.op, Opaque) and node.op.op_type in RANDOM:
        return f"{node.op.op_type} answers differently each time"
    total = 0
    for info in (graph.values[value] for value in node.outputs):
        if any(isinstance(d, str) for d in info.shape):
            return f"the size of its output {list(info.shape)} is not known before it runs"
        total += math.prod(int(d) for d in info.shape) * np.dtype(info.dtype).itemsize
    found.growth = total - sum(graph.constants[value].nbytes for value in node.inputs if graph.sole_user(value))
    if found.growth > left:
        return f"it would add {found.growth} bytes of constants, the budget has {left} left: --budget folded_bytes=..."
    try:
        found.arrays = _evaluate(graph, node)
    except Exception as error:  # torch and ONNX's reference raise anything for what they do not support
        return f"it cannot be evaluated: {error}"
    return None


def _evaluate(graph: Graph, node: Node) -> list[np.ndarray]:
    """The outputs of one node, in the dtypes that the graph gives them."""
    # Copies, for torch wants arrays it could write to.
    tensors = [torch.from_numpy(np.array(graph.constants[value])) if value else None for value in node.inputs]
    outputs = node.op.function({"": graph.opset, **graph.domains})(tensors)
    return [
        np.asarray(tensor.numpy(), graph.values[value].dtype, order="C")
        for value, tensor in zip(node.outputs, outputs, strict=True)
    ]


def _fold(graph: Graph, found: _Found) -> None:
    for value, array in zip(found.node.outputs, found.arrays, strict=True):
        graph.rewire(value, graph.add_constant(array, value))
    graph.remove(graph.node(found.node.name))


def run(graph: Graph) -> Outcome:
    left = graph.budget.folded_bytes

    def check(graph: Graph, found: _Found) -> str | None:
        return _check(graph, found, left)

    def fold(graph: Graph, found: _Found) -> None:
        nonlocal left
        left -= found.growth
        _fold(graph, found)

    return sweep(graph, Rule("fold constants", _match, check, fold))
