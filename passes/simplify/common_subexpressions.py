"""The same operator on the same inputs is computed once.

    y1 = f(x), y2 = f(x)  ->  y1 = y2 = f(x)

Constants with equal contents count as the same, and become one, unless they were other integers in the model.

Legal: f always answers the same (no random numbers).
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import replace

import numpy as np
import onnx

from optgraph.ir.graph import Graph, Node
from optgraph.ir.op import Op
from optgraph.ops import Opaque
from optgraph.passes.rewrite import Outcome, Refusal
from optgraph.passes.simplify.fold_constants import RANDOM

_SAMPLES = 16


def _sample(array: np.ndarray) -> tuple[Hashable, ...]:
    """What equal arrays have in common and different ones rarely: spares hashing weights that occur once."""
    step = max(array.size // _SAMPLES, 1)
    return str(array.dtype), array.shape, np.asarray(array.flat[::step]).tobytes()


def _share_constants(graph: Graph) -> None:
    """Readers of a constant read the first one with the same contents, on the same grid."""
    alike: dict[Hashable, list[str]] = {}
    for name, array in graph.constants.items():
        alike.setdefault((*_sample(array), graph.grids.get(name)), []).append(name)
    for names in alike.values():
        first: dict[bytes, str] = {}
        for name in names if len(names) > 1 else ():
            numbers = np.ascontiguousarray(graph.constants[name]).reshape(-1).view(np.uint8)  # bfloat16 has no buffer
            kept = first.setdefault(hashlib.blake2b(numbers.data).digest(), name)
            if kept != name:
                graph.rewire(name, kept)


def _anonymous(op: Op) -> Op:
    """`op` without the names that an Opaque one carries from its model."""
    if not isinstance(op, Opaque):
        return op
    proto = onnx.NodeProto.FromString(op.proto)
    for field in ("name", "doc_string", "output"):
        proto.ClearField(field)
    present = [bool(name) for name in proto.input]
    del proto.input[:]
    proto.input.extend("x" if there else "" for there in present)
    return replace(op, proto=proto.SerializeToString(deterministic=True))


def run(graph: Graph) -> Outcome:
    outcome = Outcome()
    _share_constants(graph)
    seen: dict[tuple[Op, tuple[str, ...]], str] = {}
    for name in [node.name for node in graph.nodes()]:
        node = graph.node(name)  # its inputs may have changed since the sweep began
        key = (_anonymous(node.op), node.inputs)
        first = seen.setdefault(key, name)
        if first == name:
            continue
        if isinstance(node.op, Opaque) and node.op.op_type in RANDOM:
            outcome.refusals.append(
                Refusal("merge equal nodes", name, f"{node.op.op_type} answers differently each time")
            )
            continue
        _merge(graph, graph.node(first), node)
        outcome.rewrites += 1
    graph.prune()
    return outcome


def _merge(graph: Graph, kept: Node, node: Node) -> None:
    kept = graph.update(kept, origin=node.origin, same_value=True)
    for old, new in zip(node.outputs, kept.outputs, strict=True):
        graph.rewire(old, new)
    graph.remove(graph.node(node.name))
