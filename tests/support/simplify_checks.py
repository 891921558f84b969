"""What the tests of the simplify passes share: run a pass on a copy, and compare before with after."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from optgraph.ir.graph import Graph, Node
from optgraph.ir.values import Value
from optgraph.ops import Binary, Opaque, Transpose
from optgraph.passes.rewrite import Outcome
from tests.support.networks import Builder, difference

TO_NHWC, TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)


def applied(run: Callable[[Graph], Outcome], graph: Graph, bound: float = 1e-12) -> tuple[Graph, Outcome]:
    """A copy of `graph` after the pass, which computes the same: to `bound`, 1e-6 where weights are rounded anew."""
    after = graph.copy()
    arrays = {name: array.copy() for name, array in graph.constants.items()}
    outcome = run(after)
    assert difference(graph, after) < bound
    assert all(np.array_equal(graph.constants[name], array) for name, array in arrays.items()), "a weight was changed"
    return after, outcome


def refusal(run: Callable[[Graph], Outcome], graph: Graph) -> str:
    """The reason for which the pass leaves `graph` alone."""
    after, outcome = applied(run, graph)
    assert outcome.rewrites == 0 and [n.op for n in after.nodes()] == [n.op for n in graph.nodes()]
    assert outcome.refusals, "nothing was refused"
    return outcome.refusals[0].reason


def transpose(b: Builder, x: str, perm: tuple[int, ...]) -> str:
    return b.graph.add(Transpose(perm=perm), [x]).output


def binary(b: Builder, fn: str, x: str, y: str) -> str:
    return b.graph.add(Binary(fn=fn), [x, y], origin=[f"{fn}_{x}_{y}"]).output


def constant(b: Builder, value: object, dtype: str = "float32") -> str:
    return b.graph.add_constant(np.array(value, dtype=dtype))


def opaque(graph: Graph, op_type: str, inputs: list[str], *shapes: tuple, dtype: str = "float32", **attributes) -> Node:
    """Any ONNX operator, as the importer keeps it."""
    outputs = [f"{op_type}.{i}" for i in range(len(shapes))]
    proto = onnx.helper.make_node(op_type, inputs, outputs, name=graph.fresh("onnx"), **attributes)
    values = tuple(Value(shape, dtype) for shape in shapes)
    op = Opaque(op_type=op_type, domain="", proto=proto.SerializeToString(), values=values)
    return graph.add(op, inputs)
