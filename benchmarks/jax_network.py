"""A simplified graph as a JAX function, N×H×W×C, for XLA to compile: the operators that the three networks have."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from optgraph import ops
from optgraph.ir.graph import Graph, Node
from optgraph.ir.values import Act, Pads

Array = Any  # a jax.Array; its types are no part of this project's checks


class NoJaxError(Exception):
    """An operator that is not written here."""


def network(graph: Graph, dtype: str = "float16") -> Callable[[Array], Array]:
    """A function from images [N, H, W, C] to the first output; weights are its constants, in `dtype`."""
    steps = [_step(graph, node, np.dtype(dtype)) for node in graph.nodes()]
    (image,), (answer, *_) = graph.inputs, graph.outputs.values()

    def run(x: Array) -> Array:
        values = {image: x}
        for node, compute in zip(graph.nodes(), steps, strict=True):
            values[node.output] = compute(*(values[v] for v in node.inputs if v in values))
        return values[answer]

    return run


def _step(graph: Graph, node: Node, dtype: np.dtype) -> Callable[..., Array]:
    op = node.op
    constants = [graph.constants[v].astype(dtype) for v in node.inputs if v in graph.constants]
    rank = len(graph.shape(node.output))
    match op:
        case ops.Conv():
            return _conv(op, *constants)
        case ops.Pool(dilation=(1, 1)):
            return _pool(op)
        case ops.GlobalPool(mode="average"):
            return lambda x: _act(x.mean((1, 2), keepdims=True), op.act)
        case ops.Gemm() if all(d == 1 for d in graph.shape(node.inputs[0])[2:]):
            weight, *bias = constants
            return lambda x: _act(x.reshape(len(x), -1) @ weight.T + sum(bias), op.act)
        case ops.Binary(fn="add") if not constants:
            return lambda x, y: _act(x + y, op.post)
        case ops.Activation():
            return lambda x: _act(x, op.act)
        case ops.Concat(axis=1) if not constants:
            return lambda *parts: jnp.concatenate(parts, -1)
        case ops.Reshape() if rank == 2 and all(d == 1 for d in graph.shape(node.inputs[0])[2:]):
            return lambda x: x.reshape(len(x), -1)
        case _:
            raise NoJaxError(f"no {op.kind} like '{node.name}' in JAX")


def _conv(op: ops.Conv, weight: np.ndarray, bias: np.ndarray | None = None) -> Callable[[Array], Array]:
    def run(x: Array) -> Array:
        y = lax.conv_general_dilated(
            x,
            weight.transpose(2, 3, 1, 0),
            op.stride,
            _padding(op.pads),
            rhs_dilation=op.dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=op.groups,
        )
        return _act(y if bias is None else y + bias, op.act)

    return run


def _pool(op: ops.Pool) -> Callable[[Array], Array]:
    window, stride, padding = (1, *op.kernel, 1), (1, *op.stride, 1), [(0, 0), *_padding(op.pads), (0, 0)]

    def total(x: Array) -> Array:
        return lax.reduce_window(x, np.zeros((), x.dtype), lax.add, window, stride, padding)

    def run(x: Array) -> Array:
        if op.mode == "max":
            y = lax.reduce_window(x, np.array(-np.inf, x.dtype), lax.max, window, stride, padding)
        elif op.count_include_pad:
            y = total(x) / math.prod(op.kernel)
        else:
            y = total(x) / total(jnp.ones_like(x[:1, ..., :1]))
        return _act(y, op.act)

    return run


def _padding(pads: Pads) -> list[tuple[int, int]]:
    top, left, bottom, right = pads
    return [(top, bottom), (left, right)]


def _act(x: Array, act: Act) -> Array:
    if act.kind == "relu":
        return jax.nn.relu(x)
    if act:
        raise NoJaxError(f"no {act.kind} in JAX")
    return x
