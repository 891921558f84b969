"""A QuantizeLinear and the DequantizeLinear after it become one operator from real numbers to real numbers.

    dequantize(quantize(x, s, z), s, z)             ->  fake_quantize{s, z}(x)
    fake_quantize{g}(fake_quantize{g}(x))           ->  fake_quantize{g}(x)

Every pass that looks for floats sees them, and a graph says that a value lies on a grid by what makes it. The integers
stay where something else reads them too: a graph output, a node that computes in integers.

Legal: both have the same scale and zero point, constants of one number; in int8 or uint8, in blocks of none, rounded
in no other type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from optgraph.ir.graph import Graph, Node
from optgraph.ir.quant import LEAST_SCALE, Quant
from optgraph.ops import FakeQuantize, Opaque
from optgraph.ops.importing import attributes
from optgraph.passes.rewrite import Outcome, Rule, sweep

_PLAIN = {"axis", "saturate", "block_size", "output_dtype", "precision"}


@dataclass(frozen=True)
class _Pair:
    quantize: Node
    dequantize: Node


def _is(node: Node | None, op_type: str) -> bool:
    return node is not None and isinstance(node.op, Opaque) and (node.op.op_type, node.op.domain) == (op_type, "")


def _parameters(graph: Graph, node: Node) -> Sequence[np.ndarray | None]:
    """Scale and zero point; None for one that is computed, a zero where there is none."""
    zero = graph.constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else np.zeros((), np.int8)
    return graph.constant(node.inputs[1]), zero


def _match(graph: Graph, node: Node) -> _Pair | None:
    above = graph.producer(node.inputs[0]) if _is(node, "DequantizeLinear") else None
    return _Pair(above, node) if above is not None and _is(above, "QuantizeLinear") else None


def _check(graph: Graph, found: _Pair) -> str | None:
    integers = graph.values[found.quantize.output].dtype
    if integers not in ("int8", "uint8"):
        return f"its integers are of type {integers}"
    first, second = (_parameters(graph, node) for node in (found.quantize, found.dequantize))
    if any(array is None for array in (*first, *second)):
        return "its scale or zero point is computed"
    if any(array.size != 1 for array in (*first, *second) if array is not None):
        return "it has a scale for each channel or block"
    if any(
        float(a.item()) != float(b.item())
        for a, b in zip(first, second, strict=True)
        if a is not None and b is not None
    ):
        return "the two have different scales or zero points"
    if not LEAST_SCALE <= _quant(graph, found).scale < np.inf:
        return "its scale is zero, negative or not finite, or too small to divide by"
    if graph.values[found.quantize.inputs[0]] != graph.values[found.dequantize.output]:
        return "it changes the type of floats"
    for node in (found.quantize, found.dequantize):
        assert isinstance(node.op, Opaque)
        attrs = attributes(onnx.NodeProto.FromString(node.op.proto))
        if attrs.get("precision", 0) not in (0, onnx.TensorProto.FLOAT) or not attrs.keys() <= _PLAIN:
            return "it rounds in a type of its own"
    return None


def _quant(graph: Graph, found: _Pair) -> Quant:
    scale, zero = _parameters(graph, found.quantize)
    assert scale is not None and zero is not None
    higher = 128 if graph.values[found.quantize.output].dtype == "uint8" else 0
    return Quant(float(scale.item()), int(zero.item()) - higher)


def _rewrite(graph: Graph, found: _Pair) -> None:
    unsigned = graph.values[found.quantize.output].dtype == "uint8"
    op = FakeQuantize(quant=_quant(graph, found), unsigned=unsigned)
    graph.update(found.dequantize, op, found.quantize.inputs[:1], found.quantize.origin, same_value=True)
    if not graph.users(found.quantize.output) and not graph.is_output(found.quantize.output):
        graph.remove(found.quantize)


@dataclass(frozen=True)
class _Twice:
    first: Node
    second: Node


def _match_twice(graph: Graph, node: Node) -> _Twice | None:
    above = graph.producer(node.inputs[0]) if isinstance(node.op, FakeQuantize) else None
    return _Twice(above, node) if above is not None and isinstance(above.op, FakeQuantize) else None


def _check_twice(graph: Graph, found: _Twice) -> str | None:
    return None if found.first.op == found.second.op else "the two grids differ"


def _remove(graph: Graph, found: _Twice) -> None:
    graph.rewire(found.second.output, found.first.output)
    graph.remove(graph.node(found.second.name))


def run(graph: Graph) -> Outcome:
    outcome = sweep(graph, Rule("fake quantize", _match, _check, _rewrite))
    outcome += sweep(graph, Rule("round once", _match_twice, _check_twice, _remove))
    return outcome
