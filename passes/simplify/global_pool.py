"""Pooling of the whole image has one form.

    mean or max over H and W, keeping dims  ->  globalpool(x)
    the same, dropping them                 ->  reshape(globalpool(x), N×C)
    pool with a window of H×W, no pads      ->  globalpool(x)

Legal: the image is N×C×H×W with H and W known. A window of the image's size without pads fits once.
"""

from __future__ import annotations

from dataclasses import dataclass

from optgraph.ir.graph import Graph, Node
from optgraph.ops import GlobalPool, Pool, Reduce, Reshape
from optgraph.passes.rewrite import Outcome, Rule, sweep

_MODES = {"mean": "average", "max": "max"}


@dataclass(frozen=True)
class _Found:
    node: Node
    mode: str


def _match(graph: Graph, node: Node) -> _Found | None:
    match node.op:
        case Reduce(mode=mode, axes=(2, 3)) if mode in _MODES and len(graph.shape(node.inputs[0])) == 4:
            return _Found(node, _MODES[mode])
        case Pool(mode=mode, kernel=kernel) if kernel == graph.shape(node.inputs[0])[2:]:
            return _Found(node, mode)
    return None


def _check(graph: Graph, found: _Found) -> str | None:
    op = found.node.op
    if isinstance(op, Pool):
        if any(op.pads) or op.dilation != (1, 1):
            return "the window is padded or dilated: it covers the image only in part"
        if len(found.node.inputs) > 1 or op.pre_act or op.act or op.post:
            return "the pool has a prologue or epilogue"
    return None


def _rewrite(graph: Graph, found: _Found) -> None:
    node, shape = found.node, graph.shape(found.node.output)
    pool = GlobalPool(mode=found.mode)
    if len(shape) == 4:
        graph.replace_node(node, pool, node.inputs)
    else:
        pooled = graph.add(pool, node.inputs, name=node.name, origin=node.origin)
        graph.replace_node(node, Reshape(shape=shape), [pooled.output])


def run(graph: Graph) -> Outcome:
    return sweep(graph, Rule("make global pool", _match, _check, _rewrite))
