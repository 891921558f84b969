"""What of a compiled network leaves fp16: on inputs that are given, or else on one that is made up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from optgraph.api.net import Net
from optgraph.base.dtypes import float_storage
from optgraph.base.errors import OptgraphError
from optgraph.cost.work import costs
from optgraph.onnx.sessions import Feeds
from optgraph.plan.batches import fitting_batch
from optgraph.run.example import example
from optgraph.run.fp16_range import Leaving, leaving

# What a look that nobody asked for may take: Xception's, of 17 GFLOP, took one second of one core, Inception V3's 0.3.
MOST_FLOPS = 40e9


class Ranges(NamedTuple):
    """The regions that leave fp16, None if that is not known; and what they were looked for on, or why they were not.
    Of a dtype with the range of float32 both are empty."""

    regions: tuple[Leaving, ...] | None
    how: str


def ranges(net: Net, inputs: Sequence[Feeds]) -> Ranges:
    """Of `net`, on `inputs`; if there are none, on the image that `verify` makes up, unless that takes too long."""
    if float_storage(net.dtype) != "float16":
        return Ranges((), "")
    graphs = net.simplified, net.fused, net.dtype
    if inputs:
        return Ranges(tuple(leaving(*graphs, inputs, net.plans.keep)), "on what --input gives")
    batch = fitting_batch(net.inputs, 1)
    flops = sum(sum(cost.work.flops.values()) for cost in costs(net.plan(batch), net.plans.shapes))
    if flops > MOST_FLOPS:
        return Ranges(None, f"not looked for, which takes {flops / 1e9:.0f} GFLOP: give --input to have it done")
    try:
        found = leaving(*graphs, [example(net.inputs, batch, seed=0)], net.plans.keep)
    except OptgraphError as error:
        return Ranges(None, f"not known, for a made-up input will not do: give --input: {error}")
    return Ranges(tuple(found), "on a made-up input: --input looks on yours")
