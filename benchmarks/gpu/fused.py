"""Step fused: what one launch fuses against the launches that compute the same, at the sizes of the three networks.

Every separable convolution, bottleneck and pooled 1×1 that the fuse passes make, whether or not a plan would have it in
one launch; so these figures can judge that choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

import torch

from benchmarks import record
from benchmarks.cost import fused as fused_graph
from benchmarks.gpu.device import about, bench, check, checked, identity, microseconds, plausible, settle
from benchmarks.gpu.worker import Record, Task
from optgraph.base.devices import Target
from optgraph.ir.graph import Graph
from optgraph.ir.op import Node
from optgraph.kernels import bottleneck, pooled_pointwise, separable
from optgraph.kernels.frame.ends import Epilogue, Prologue
from optgraph.kernels.frame.launch import Launch, targeting
from optgraph.kernels.frame.sample import image
from optgraph.ops import Bottleneck, PooledPointwise, Separable
from optgraph.tune.apart import separate
from optgraph.tune.layers import Bind, Layer
from optgraph.tune.tune import Bench

__all__ = ["about", "identity", "launches", "settle", "tasks"]

BATCHES = (1, 128, 8)
SECONDS = 30.0


def layers() -> dict[str, Layer]:
    """The distinct ones of the three networks, by batch, kernel and sizes."""
    found: dict[str, Layer] = {}
    graphs = [fused_graph(name) for name in record.NETWORKS]
    for batch in BATCHES:
        for graph in graphs:
            for node in graph.nodes():
                layer = _layer(graph, node, batch)
                if layer is not None:
                    found.setdefault(f"batch {batch} {layer.key}", layer)
    return found


def _layer(graph: Graph, node: Node, batch: int) -> Layer | None:
    """The node as one launch in fp16; None if it is no fused one."""
    op = node.op
    if not isinstance(op, Separable | Bottleneck | PooledPointwise):
        return None
    _, channels, height, width = (d if isinstance(d, int) else 0 for d in graph.shape(node.inputs[0]))
    columns = int(graph.shape(node.output)[1])
    shape = (batch, height, width, channels)
    after = Epilogue(bool(node.get("b")) or None, op.act, bool(node.get("residual")) or None, op.post)
    ends = {"x": image(*shape), "before": Prologue(act=op.pre_act), "after": after}
    if isinstance(op, Separable):
        bias = bool(node.get("dw_b"))
        sample = separable.sample(shape, columns, op.window, depthwise_bias=bias, mid=op.mid, **ends)
        return Layer(separable.SEPARABLE, sample.typed("fp16"))
    if isinstance(op, PooledPointwise):
        sample = pooled_pointwise.sample(shape, columns, op.window, **ends)
        return Layer(pooled_pointwise.POOLED_POINTWISE, sample.typed("fp16"))
    hidden = int(graph.shape(node.get("conv_w"))[0])
    rest = int(graph.shape(node.get("w"))[1]) - hidden
    options = {"rest": rest, "rest_first": op.rest_first, "mid": op.mid}
    sample = bottleneck.sample(shape, hidden, columns, op.window, **options, **ends)
    return Layer(bottleneck.BOTTLENECK, sample.typed("fp16"))


def apart(layer: Layer, target: Target) -> list[Launch]:
    """The launches that compute what the fused one does, on memory that does not exist."""
    found: list[Launch] = []

    def bind(launch: Launch) -> Callable[[], None]:
        found.append(launch)
        return lambda: None

    with targeting(target):
        separate(layer.operands(torch.device("meta")), bind)
    return found


def launches(target: Target) -> Iterator[Launch]:
    for layer in layers().values():
        with suppress(ValueError):  # what has no launch says so when it is measured
            yield layer.dry(target)
        yield from apart(layer, target)


def tasks() -> Iterator[Task]:
    here = bench()
    bind = here.binder(list(launches(here.target)), here.device)
    for key, layer in layers().items():
        yield Task(key, lambda layer=layer: measure(layer, here, bind), SECONDS)


def measure(layer: Layer, bench: Bench, bind: Bind) -> Record:
    """Microseconds of one launch and of the launches apart, both right. Raises WrongError if one is not."""
    operands = layer.operands(bench.device)
    fused, launch = checked(layer, operands, bind)
    apiece = separate(operands, bind)
    assert apiece is not None
    check(operands, apiece, layer.bound, f"separate launches of {layer}")
    us = microseconds({"fused": fused, "separate": apiece}, bench)
    for times in us.values():
        plausible(times["median"], [launch], bench)
    (x, *_), batch = layer.sample.views().values(), layer.sample.views()["x"].shape[0]
    return {
        "kernel": layer.name,
        "layer": str(layer),
        "batch": batch,
        "channels": x.shape[-1],
        "us": us,
        "ratio": us["separate"]["median"] / us["fused"]["median"],
    }
