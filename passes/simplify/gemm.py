"""A product with a constant matrix is a dense layer.

    matmul(x, w), x of [M, K], w constant of [K, N]  ->  gemm(x, wᵀ)

A bias added after it is an Affine (`batchnorm`), which `fold_affine` folds in.

Legal: always; wᵀ is a copy, for others may read w.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optgraph.ir.graph import Graph, Node
from optgraph.ops import Gemm, MatMul
from optgraph.passes.rewrite import Outcome, Rule, sweep


@dataclass(frozen=True)
class _Found:
    node: Node
    weight: np.ndarray


def _match(graph: Graph, node: Node) -> _Found | None:
    weight = graph.constant(node.inputs[1]) if isinstance(node.op, MatMul) else None
    return None if weight is None else _Found(node, weight)


def _check(graph: Graph, found: _Found) -> str | None:
    x, y = (len(graph.shape(value)) for value in found.node.inputs)
    return None if x == y == 2 else f"a dense layer multiplies matrices, these are of rank {x} and {y}"


def _rewrite(graph: Graph, found: _Found) -> None:
    x, w = found.node.inputs
    grid = graph.grids.get(w)
    turned = graph.add_constant(np.ascontiguousarray(found.weight.T), w, grid.permuted((1, 0)) if grid else None)
    graph.replace_node(found.node, Gemm(), [x, turned])


def run(graph: Graph) -> Outcome:
    return sweep(graph, Rule("make gemm", _match, _check, _rewrite))
