"""Checks on what a model holds and asks for, as opposed to what it means."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from optgraph.base.errors import ModelError
from optgraph.ir.graph import Graph, Node
from optgraph.ir.op import Op
from optgraph.ir.values import BATCH, Value, per_image

# What multiplies by its constants. Elsewhere an infinity means something: a bound, a mask that is added or chosen.
_PRODUCTS = frozenset(
    ("Affine", "BatchNorm", "Conv", "ConvTranspose", "Gemm", "GroupNorm", "MatMul", "PRelu")
) | frozenset(("InstanceNormalization", "LayerNormalization", "RMSNormalization"))


def check_finite(graph: Graph) -> None:
    """Raises ModelError, naming the weight and the first node that reads it, if a weight has a NaN, or if one that is
    multiplied has an infinity."""
    for name, array in graph.constants.items():
        if not str(array.dtype).startswith(("float", "bfloat")):
            continue
        users = graph.users(name)
        multiplied = any(_multiplies(user.op, array) for user, _ in users)
        bad = ~np.isfinite(array) if multiplied else np.isnan(array)
        if not bad.any():
            continue
        reader = f", read by node '{users[0][0].name}' ({users[0][0].op.kind})," if users else ""
        raise ModelError(
            f"weight '{name}'{reader} has {np.count_nonzero(bad)} of {array.size} values that are NaN or infinite: "
            "export the model again from a sound checkpoint"
        )


def uncomputable(graph: Graph) -> Iterator[tuple[Node, ModelError]]:
    """The nodes whose operators nothing here can run, and why: neither a kernel nor torch nor ONNX's reference."""
    opsets = {**graph.domains, "": graph.opset}
    for node in graph.nodes():
        try:
            node.op.function(opsets)
        except ModelError as error:
            yield node, error


def check_computable(graph: Graph) -> None:
    """Raises ModelError, naming the first node whose operator nothing here can run."""
    for node, error in uncomputable(graph):
        raise error.at(f"node '{node.name}' ({node.op.kind})")


def _multiplies(op: Op, constant: np.ndarray) -> bool:
    return op.kind in _PRODUCTS or (constant.size > 1 and getattr(op, "fn", "") == "mul")


def fixed_shapes(graph: Graph) -> str:
    """The remedy where an open batch is in the way: the option that fixes it, spelled out for the graph's inputs."""
    shapes = {name: graph.shape(name) for name in graph.inputs}
    if not any(BATCH in shape for shape in shapes.values()):
        return "export the model again, with fixed shapes inside"
    texts = {name: ",".join("1" if d == BATCH else str(d) for d in shape) for name, shape in shapes.items()}
    several = len(texts) > 1
    options = (f"--input-shape {f'{name}={text}' if several else text}" for name, text in texts.items())
    return f"fix the batch with {' '.join(options)}"


def check_size(graph: Graph) -> None:
    """Raises ModelError if a single activation of `graph`, for one image, is over its budget's `arena_bytes`."""
    sizes = {name: _size(value) for name, value in graph.values.items() if name not in graph.constants}
    largest = max(sizes, key=sizes.__getitem__)
    node = graph.producer(largest)
    where = f"node '{node.name}' ({node.op.kind})" if node else f"input '{largest}'"
    shape, size = list(graph.shape(largest)), sizes[largest]
    graph.budget.check("arena_bytes", size, f"{where}: a tensor of {shape} takes {size} bytes")


def _size(value: Value) -> int:
    return (
        math.prod(d if isinstance(d, int) else per_image(d) or 1 for d in value.shape) * np.dtype(value.dtype).itemsize
    )
