"""The transposes at the two ends of a network.

    transpose(f(x), p) on a model input x  ->  g(transpose(x, p))         (`permute.py`)
    gemm(flatten(transpose(x, p)), w)      ->  gemm(flatten(x), w with its columns reordered)

So an NHWC input is transposed at once, whatever preprocessing follows, and a dense layer over a flattened NHWC image
needs no transpose. Runs after `layout`, which moves transposes down.

Legal: on the way from the input each value is read by the next operator only, other operands are constants. The
flattened image is read by the Gemm only, and its batch stays in front.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optgraph.ir.graph import Graph, Node
from optgraph.ops import Gemm, Reshape, Transpose
from optgraph.passes.rewrite import Outcome, Rule, sweep
from optgraph.passes.simplify.permute import Perm, inverse, permuted, permuted_constant


@dataclass(frozen=True)
class _Chain:
    start: str
    operators: list[Node]
    end: Node
    perm: Perm


def _match_chain(graph: Graph, node: Node) -> _Chain | None:
    """The way from a model input, whose only reader `node` is, down to a transpose."""
    start = next((value for value in node.inputs if value in graph.inputs), None)
    if start is None or isinstance(node.op, Transpose):
        return None
    value, operators = start, list[Node]()
    while (user := graph.sole_user(value)) is not None:
        if isinstance(user.op, Transpose):
            return _Chain(start, operators, user, user.op.perm)
        in_place = tuple(range(len(graph.shape(value))))
        if permuted(user.op, in_place) is None or len(user.outputs) > 1:
            return None
        if any(v != value and v not in graph.constants for v in user.inputs):
            return None
        operators.append(user)
        value = user.output
    return None


def _check_chain(graph: Graph, found: _Chain) -> str | None:
    for node in found.operators:
        if len(graph.shape(node.output)) != len(graph.shape(found.start)):
            return f"'{node.name}' ({node.op.kind}) changes the rank"
    return None


def _raise(graph: Graph, found: _Chain) -> None:
    back = inverse(found.perm)
    old = found.start
    value = graph.add(Transpose(perm=found.perm), [old], name=found.end.name, origin=found.end.origin).output
    for node in found.operators:
        moved = permuted(node.op, back)
        assert moved is not None
        inputs = [value if v == old else _turned(graph, v, found.perm) for v in node.inputs]
        old, value = node.output, graph.add(moved[0], inputs, name=node.name, origin=node.origin).output
    graph.rewire(found.end.output, value)
    for node in (found.end, *reversed(found.operators)):
        graph.remove(graph.node(node.name))


def _turned(graph: Graph, constant: str, perm: Perm) -> str:
    array = graph.constants[constant]
    turned = permuted_constant(array, perm)
    return constant if turned is array else graph.add_constant(turned, constant)


@dataclass(frozen=True)
class _Flatten:
    transpose: Node
    reshape: Node
    gemm: Node
    perm: Perm


def _match_flatten(graph: Graph, node: Node) -> _Flatten | None:
    reshape = graph.producer(node.inputs[0]) if isinstance(node.op, Gemm) else None
    if reshape is None or not isinstance(reshape.op, Reshape):
        return None
    transpose = graph.producer(reshape.inputs[0])
    if transpose is None or not isinstance(transpose.op, Transpose):
        return None
    return _Flatten(transpose, reshape, node, transpose.op.perm)


def _check_flatten(graph: Graph, found: _Flatten) -> str | None:
    if found.perm[0] != 0 or graph.shape(found.reshape.output)[0] != graph.shape(found.transpose.output)[0]:
        return "the batch does not stay in front"
    if graph.sole_user(found.reshape.output) is None:
        return "the flattened image is also needed elsewhere"
    if graph.constant(found.gemm.get("w")) is None:
        return "the weight is not a constant"
    return None


def _reorder(graph: Graph, found: _Flatten) -> None:
    w = found.gemm.get("w")
    weight, grid = graph.constants[w], graph.grids.get(w)
    image = [int(d) for d in graph.shape(found.transpose.output)[1:]]
    turned = weight.reshape(-1, *image).transpose(inverse(found.perm))
    same = grid if grid and grid.axis == 0 else None  # columns with scales of their own are others now
    w = graph.add_constant(np.ascontiguousarray(turned).reshape(weight.shape), w, same)
    graph.update(found.reshape, inputs=found.transpose.inputs)
    graph.update(graph.node(found.gemm.name), inputs=found.gemm.inputs_with(w=w), same_value=True)


def run(graph: Graph) -> Outcome:
    outcome = sweep(
        graph,
        Rule("transpose at the input", _match_chain, _check_chain, _raise),
        Rule("flatten untransposed", _match_flatten, _check_flatten, _reorder),
    )
    graph.prune()
    return outcome
