"""Images go into a dense layer as they are.

    gemm(reshape(x, N×(C·H·W)))  ->  gemm(x), x of N×C×H×W

Images lie N×H×W×C in memory: the reshape would reorder each of them, where lowering need only reorder the weight, once.

Legal: the reshape makes one row of each image, which is how a Gemm of images is defined. That of N×C×1×1 moves nothing
and stays.
"""

from __future__ import annotations

from dataclasses import dataclass

from optgraph.ir.graph import Graph, Node
from optgraph.ops import Gemm, Reshape
from optgraph.passes.rewrite import Outcome, Rule, sweep


@dataclass(frozen=True)
class _Found:
    reshape: Node
    gemm: Node


def _match(graph: Graph, node: Node) -> _Found | None:
    reshape = graph.producer(node.inputs[0]) if isinstance(node.op, Gemm) else None
    return _Found(reshape, node) if reshape and isinstance(reshape.op, Reshape) else None


def _check(graph: Graph, found: _Found) -> str | None:
    source, target = (graph.shape(value) for value in (found.reshape.inputs[0], found.reshape.output))
    if len(source) != 4 or source[0] != target[0]:
        return f"{list(source)} to {list(target)} does not flatten images"
    if source[2:] == (1, 1):
        return "it moves nothing"
    return None


def _rewrite(graph: Graph, found: _Found) -> None:
    inputs = (found.reshape.inputs[0], *found.gemm.inputs[1:])
    graph.update(found.gemm, inputs=inputs, origin=found.reshape.origin, same_value=True)
    if not graph.users(found.reshape.output) and not graph.is_output(found.reshape.output):
        graph.remove(found.reshape)


def run(graph: Graph) -> Outcome:
    return sweep(graph, Rule("flatten", _match, _check, _rewrite))
