"""How large the sums are that a depthwise convolution makes in float16: those of a row of taps.

Rows are then added in float32, where large ones of other signs may cancel: what is stored does not show them.
"""

from __future__ import annotations

import torch

from optgraph.ir.graph import Graph, Node
from optgraph.kernels.depthwise import in_half
from optgraph.kernels.frame.ends import Prologue
from optgraph.ops import Conv, Separable, computing

_HALF = torch.empty(0, dtype=torch.float16)


def adding_in_half(graph: Graph) -> dict[str, list[Node]]:
    """By value, the depthwise convolutions that read it and add a row of taps in float16, where it is stored so."""
    found: dict[str, list[Node]] = {}
    for node in graph.nodes():
        if isinstance(node.op, (Conv, Separable)) and _adds_in_half(graph, node):
            found.setdefault(node.inputs[0], []).append(node)
    return found


def _adds_in_half(graph: Graph, node: Node) -> bool:
    assert isinstance(node.op, (Conv, Separable))
    if isinstance(node.op, Conv) and not node.op.depthwise(graph.shape(node.inputs[0])[1]):
        return False
    if node.inputs[1] not in graph.constants:
        return False  # it has no kernel
    affine = node.get("pre_scale") or node.get("pre_shift")
    return in_half(_HALF, _HALF, node.op.window, Prologue(_HALF if affine else None, act=node.op.pre_act))


def largest_row_sum(node: Node, x: torch.Tensor, weight: torch.Tensor, limit: float) -> float:
    """The largest sum of a row of taps of such a node, all signs taken for the same; 0 where none can exceed `limit`.

    x: what it reads. weight: [C, 1, kh, kw].
    """
    assert isinstance(node.op, (Conv, Separable))
    x, weight = node.op.pre_act.apply(x).abs(), weight.abs().to(x.dtype)
    x = torch.where(x.isfinite(), x, 0.0)
    if float(x.max()) * float(weight.sum(-1).max()) <= limit:
        return 0.0
    largest = 0.0
    for i in range(weight.shape[2]):
        row = torch.zeros_like(weight)
        row[:, :, i] = weight[:, :, i]
        largest = max(largest, float(computing.convolve(x, row, None, node.op.window, len(weight)).max()))
    return largest
