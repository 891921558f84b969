"""Shapes that are known need no computing, and an operator whose shape operand is known is one of ours.

    shape(x), size(x)          ->  a constant, where x has no symbolic dimension
    reshape(x, constant)       ->  Reshape
    expand(x, constant)        ->  Expand; x, where it does not grow x

Import follows shape arithmetic with a symbolic batch and resolves most of it (`onnx/shape_arithmetic.py`); what it had
to keep is the arithmetic that became constant since, by `fold_constants`, which runs before and after.

Legal: the output has the shape that the graph already gives it, which later nodes were checked against.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx

from optgraph.base.errors import ModelError
from optgraph.ir.graph import Graph, Node
from optgraph.ir.values import Dim, Shape, broadcast, reshaped
from optgraph.ops import Expand, Opaque, Reshape
from optgraph.passes.rewrite import Outcome, Rule, sweep


def _attributes(op: Opaque) -> dict[str, int]:
    return {a.name: a.i for a in onnx.NodeProto.FromString(op.proto).attribute}


@dataclass(frozen=True)
class _Known:
    node: Node
    dims: Shape
    array: np.ndarray


def _match_known(graph: Graph, node: Node) -> _Known | None:
    if not isinstance(node.op, Opaque) or node.op.op_type not in ("Shape", "Size") or node.op.domain:
        return None
    dims = graph.shape(node.inputs[0])
    if node.op.op_type == "Shape":
        attributes = _attributes(node.op)
        dims = dims[attributes.get("start") : attributes.get("end")]
    ints = [d for d in dims if isinstance(d, int)]
    return _Known(node, dims, np.array(ints if node.op.op_type == "Shape" else math.prod(ints), np.int64))


def _check_known(graph: Graph, found: _Known) -> str | None:
    if any(isinstance(d, str) for d in found.dims):
        return f"the shape {list(found.dims)} is known only when the model runs"
    return None


def _make_constant(graph: Graph, found: _Known) -> None:
    graph.rewire(found.node.output, graph.add_constant(found.array, found.node.output))
    graph.remove(graph.node(found.node.name))


@dataclass(frozen=True)
class _Shaped:
    node: Node
    target: np.ndarray


def _match_shaped(graph: Graph, node: Node) -> _Shaped | None:
    if not isinstance(node.op, Opaque) or node.op.op_type not in ("Reshape", "Expand") or node.op.domain:
        return None
    target = graph.constant(node.inputs[1])
    return None if target is None else _Shaped(node, target)


def _result(graph: Graph, found: _Shaped) -> Shape:
    """The output shape. Raises ModelError if the operand does not fit the input."""
    assert isinstance(found.node.op, Opaque)
    source = graph.shape(found.node.inputs[0])
    target: list[Dim] = [int(d) for d in found.target]
    if found.node.op.op_type == "Expand":
        return broadcast(source, tuple(target))
    if not _attributes(found.node.op).get("allowzero", 0):
        target = [source[i] if d == 0 else d for i, d in enumerate(target)]
    return reshaped(source, tuple(target))


def _check_shaped(graph: Graph, found: _Shaped) -> str | None:
    assert isinstance(found.node.op, Opaque)
    declared = graph.shape(found.node.output)
    try:
        result = _result(graph, found)
    except (ModelError, IndexError) as error:
        return str(error)
    if result != declared:
        return f"later nodes were read with the output shape {list(declared)}, it is {list(result)}"
    return None


def _shape(graph: Graph, found: _Shaped) -> None:
    node = found.node
    source, target = (graph.shape(value) for value in (node.inputs[0], node.output))
    op = Expand(shape=target) if node.op.kind == "Expand" and source != target else Reshape(shape=target)
    graph.replace_node(node, op, node.inputs[:1])


def run(graph: Graph) -> Outcome:
    return sweep(
        graph,
        Rule("fold shape", _match_known, _check_known, _make_constant),
        Rule("fix shape operand", _match_shaped, _check_shaped, _shape),
    )
