"""What the tests of reports look at: a small net, what passes did."""

from __future__ import annotations

from onnx import helper

from optgraph.api.net import Net
from optgraph.api.recipe import SourceModel
from optgraph.cost.work import bytes_per_image
from optgraph.ir.graph import Graph
from optgraph.ops import Opaque
from optgraph.passes.pipeline import PassReport
from optgraph.passes.rewrite import Refusal
from tests.support.networks import Builder


def net(graph: Graph, dtype: str = "fp32") -> Net:
    """`graph` as if compiled from 99 nodes."""
    return Net(graph, graph, SourceModel("m.onnx", "", 99, bytes_per_image(graph, dtype)), "torch", dtype)


def small() -> Graph:
    """A 1×1 convolution of 12 to 5 channels on 9×9 pixels, and a remainder, for which there is no kernel."""
    b = Builder()
    y = b.conv(b.x, 5)
    proto = helper.make_node("Mod", ["a", "b"], ["c"], fmod=1)
    op = Opaque(op_type="Mod", domain="", proto=proto.SerializeToString(), values=(b.graph.values[y],))
    return b.done(b.graph.add(op, (y, y), name="two\x1b[2J", origin=("mod",)).output)


def reports() -> list[PassReport]:
    refusal = Refusal("fold", "conv [1]", "it pads")
    return [PassReport("a", "first", 3, 10, 7, 0.0123, (refusal,)), PassReport("b", "second", 0, 7, 7, 0.0, ())]
