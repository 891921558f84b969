"""The producers of a concatenation write straight into its channels.

    y = concat(a(x), b(x))  ->  y[:, :Ca] = a(x);  y[:, Ca:] = b(x)

In NHWC memory a range of channels is a view with the row stride of the whole, which every kernel can write and every
kernel can read: the concatenation costs nothing, and a value's other readers read the view.

Legal for each input alone: a 4-D concatenation of channels; a kernel of ours computes the value; it lives in no other
place yet. The inputs that stay unplaced are copied. A concatenation may itself be placed in a larger one: in DenseNet,
each is the head of the next.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from optgraph.graph import Graph, Node
from optgraph.ops import (
    LRN,
    Activation,
    Affine,
    Binary,
    Concat,
    Conv,
    GlobalPool,
    MergedPointwise,
    Pad,
    Pool,
    Separable,
)
from optgraph.passes.rewrite import Outcome, Rule, sweep

WRITES_CHANNELS = (Activation, Affine, Binary, Conv, GlobalPool, LRN, MergedPointwise, Pad, Pool, Separable)


Homes = dict[str, tuple[str, int]]  # value -> the concat and input slot where it may be placed


def _match(graph: Graph, node: Node) -> Node | None:
    return node if isinstance(node.op, Concat) and not node.op.in_place else None


def _joins_channels(graph: Graph, node: Node) -> bool:
    return isinstance(node.op, Concat) and node.op.axis == 1 and len(graph.shape(node.output)) == 4


def _homes(graph: Graph) -> Homes:
    """A value that several concats read, or one reads twice, lives in the first place and is copied to the others."""
    homes: Homes = {}
    for node in graph.nodes():
        if _joins_channels(graph, node):
            for slot, value in enumerate(node.inputs):
                homes.setdefault(value, (node.name, slot))
    return homes


def _obstacle(graph: Graph, node: Node, slot: int, homes: Homes) -> str | None:
    value = node.inputs[slot]
    producer = graph.producer(value)
    if producer is None:
        return f"'{value}' is a graph input or a constant"
    if not isinstance(producer.op, WRITES_CHANNELS) and not _joins_channels(graph, producer):
        return f"'{producer.name}' ({producer.op.kind}) cannot write into a channel slice"
    if homes[value] != (node.name, slot):
        return f"'{value}' is placed in '{homes[value][0]}' already"
    return None


def _check(graph: Graph, node: Node, homes: Homes) -> str | None:
    if not _joins_channels(graph, node):
        return "not a concatenation of the channels of 4-D values"
    reasons = [_obstacle(graph, node, slot, homes) for slot in range(len(node.inputs))]
    return None if None in reasons else reasons[0]


def _rewrite(graph: Graph, node: Node, homes: Homes) -> None:
    assert isinstance(node.op, Concat)
    flags = tuple(_obstacle(graph, node, slot, homes) is None for slot in range(len(node.inputs)))
    graph.update(node, replace(node.op, in_place=flags), same_value=True)


def run(graph: Graph) -> Outcome:
    homes = _homes(graph)
    rule = Rule("place concat", _match, partial(_check, homes=homes), partial(_rewrite, homes=homes))
    return sweep(graph, rule)
