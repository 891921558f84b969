"""Up to four 1×1 convolutions of one input become one product with an output for each.

    y_i = act_i(pre(x) @ w_i + b_i), i < n <= 4  ->  y_0, ..., y_n-1 = merged{acts}(x, w_0, b_0, ..., w_n-1, b_n-1)

so that x is read once, by one launch wide enough to fill the device.

Legal: equal input, stride and prologue, and all results rounded to grids, be they others, or none. The kernel applies
one activation function, or none, to a segment, so other activations stay outside, and so does a PRelu, whose slopes
differ.
A residual may depend on a sibling, which would close a cycle; so may a weight that is computed. Everything else a
sibling reads is x, so none depends on another.
"""

from __future__ import annotations

import math
from collections import Counter

from optgraph.ir.graph import Graph, Node
from optgraph.ir.values import IDENTITY, Act, Pair, Segment
from optgraph.kernels.frame.segments import MAX_SEGMENTS
from optgraph.ops import Conv, MergedPointwise
from optgraph.passes.rewrite import Outcome, Refusal

Key = tuple[str, str, str, Act, Pair, bool]


def _match(graph: Graph) -> list[list[Node]]:
    """The families: 1×1 convolutions of one input with equal stride and prologue, on grids all or none."""
    families: dict[Key, list[Node]] = {}
    for node in graph.nodes():
        if isinstance(node.op, Conv) and node.op.pointwise:
            read = (node.inputs[0], node.get("pre_scale"), node.get("pre_shift"), node.op.pre_act)
            key = (*read, node.op.stride, bool(node.op.quants))
            families.setdefault(key, []).append(node)
    return [family for family in families.values() if len(family) > 1]


def _shared_act(family: list[Node]) -> Act:
    """The activation function that most of a family have."""
    acts = Counter(act for node in family if (act := _act(node)) and not act.sloped)
    return max(acts, key=lambda act: (acts[act], str(act)), default=IDENTITY)


def _act(node: Node) -> Act:
    assert isinstance(node.op, Conv)
    return node.op.act


def _check(graph: Graph, node: Node, shared: Act) -> str | None:
    assert isinstance(node.op, Conv)
    if node.get("residual") or node.op.post:
        return "it adds a residual, which may depend on a sibling"
    if not all(v in graph.constants for v in node.inputs[1:] if v):
        return "its weights are computed and may depend on a sibling"
    if node.op.act.sloped:
        return "it has a slope a channel, and a segment has none"
    if node.op.act and node.op.act != shared:
        return f"its activation {node.op.act.kind} is not its siblings' {shared.kind}"
    return None


def _groups(graph: Graph, nodes: list[Node]) -> list[list[Node]]:
    """As few groups as the kernel's segments allow, as equal as they come; widest first, whatever the node order."""
    if len(nodes) < 2:
        return []
    nodes = sorted(nodes, key=lambda node: (-int(graph.shape(node.output)[1]), str(_act(node))))
    size = math.ceil(len(nodes) / math.ceil(len(nodes) / MAX_SEGMENTS))
    return [nodes[i : i + size] for i in range(0, len(nodes), size)]


def _segment(graph: Graph, node: Node) -> Segment:
    assert isinstance(node.op, Conv)
    return Segment(int(graph.shape(node.output)[1]), node.op.act, node.op.quants)


def _rewrite(graph: Graph, group: list[Node]) -> None:
    first = group[0]
    assert isinstance(first.op, Conv)
    segments = tuple(_segment(graph, node) for node in group)
    weights = [node.get(slot) for node in group for slot in ("w", "b")]
    merged = graph.add(
        MergedPointwise(segments=segments, stride=first.op.stride, pre_act=first.op.pre_act),
        (first.inputs[0], first.get("pre_scale"), first.get("pre_shift"), *weights),
        name=first.name,
        origin=(name for node in group for name in node.origin),
    )
    for node, output in zip(group, merged.outputs, strict=True):
        graph.rewire(node.output, output)
        graph.remove(node)


def run(graph: Graph) -> Outcome:
    outcome = Outcome()
    for family in _match(graph):
        shared = _shared_act(family)
        fit = []
        for node in family:
            reason = _check(graph, node, shared)
            if reason is None:
                fit.append(node)
            else:
                outcome.refusals.append(Refusal("merge siblings", node.name, reason))
        for group in _groups(graph, fit):
            _rewrite(graph, group)
            outcome.rewrites += 1
    return outcome
