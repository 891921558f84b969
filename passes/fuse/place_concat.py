"""The producers of a concatenation write straight into its channels.

    y = concat(a(x), b(x))  ->  y[:, :Ca] = a(x);  y[:, Ca:] = b(x)

In NHWC memory a range of channels is a view with the row stride of the whole, which every kernel can write and every
kernel can read: the concatenation costs nothing, and a value's other readers read the view. So it is for what a
Bottleneck's 1×1 reads beside the convolution, should the two run one by one.

Legal for each input alone: a 4-D concatenation of channels; a kernel of ours computes the value; it lives in no other
place yet. The inputs that stay unplaced are copied. A concatenation may itself be placed in a larger one: in DenseNet,
each is the head of the next.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from optgraph.ir.graph import Graph, Node
from optgraph.ir.op import Op
from optgraph.ops import Bottleneck, Concat
from optgraph.passes.rewrite import Outcome, Rule, sweep

Homes = dict[str, tuple[str, int]]  # value -> the concat and input slot where it may be placed


def _match(graph: Graph, node: Node) -> Node | None:
    match node.op:
        case Concat(in_place=()):
            return node
        case Bottleneck(rest_in_place=False) if node.get("rest"):
            return node
    return None


def _joins_channels(graph: Graph, node: Node) -> bool:
    return isinstance(node.op, Concat) and node.op.axis == 1 and len(graph.shape(node.output)) == 4


def _parts(graph: Graph, node: Node) -> dict[int, str]:
    """The inputs, by slot, that the node wants side by side in one buffer."""
    if isinstance(node.op, Bottleneck) and node.get("rest"):
        return {node.op.slots.index("rest"): node.get("rest")}
    return dict(enumerate(node.inputs)) if _joins_channels(graph, node) else {}


def _homes(graph: Graph) -> Homes:
    """A value that several concats read, or one reads twice, lives in the first place and is copied to the others."""
    homes: Homes = {}
    for node in graph.nodes():
        for slot, value in _parts(graph, node).items():
            homes.setdefault(value, (node.name, slot))
    return homes


def _obstacle(graph: Graph, node: Node, slot: int, homes: Homes) -> str | None:
    value = node.inputs[slot]
    producer = graph.producer(value)
    if producer is None:
        return f"'{value}' is a graph input or a constant"
    if not producer.op.writes_channels and not _joins_channels(graph, producer):
        return f"'{producer.name}' ({producer.op.kind}) cannot write into a channel slice"
    if homes[value] != (node.name, slot):
        return f"'{value}' is placed in '{homes[value][0]}' already"
    return None


def _check(graph: Graph, node: Node, homes: Homes) -> str | None:
    parts = _parts(graph, node)
    if not parts:
        return "not a concatenation of the channels of 4-D values"
    reasons = [_obstacle(graph, node, slot, homes) for slot in parts]
    return None if None in reasons else reasons[0]


def _rewrite(graph: Graph, node: Node, homes: Homes) -> None:
    op: Op
    if isinstance(node.op, Bottleneck):
        op = replace(node.op, rest_in_place=True)
    else:
        assert isinstance(node.op, Concat)
        flags = tuple(_obstacle(graph, node, slot, homes) is None for slot in range(len(node.inputs)))
        op = replace(node.op, in_place=flags)
    graph.update(node, op, same_value=True)


def run(graph: Graph) -> Outcome:
    homes = _homes(graph)
    rule = Rule("place concat", _match, partial(_check, homes=homes), partial(_rewrite, homes=homes))
    return sweep(graph, rule)
