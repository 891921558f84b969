"""What a graph and its launches cost, counted and never timed: bytes of memory touched, and multiply-adds.

A launch says what it does (`kernels/frame/work.py`); how long that may take on a GPU is for `predict` to say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from optgraph.base.dtypes import INT8, ITEMSIZE, float_storage
from optgraph.ir.graph import Graph, Node
from optgraph.kernels.frame.launch import Launch
from optgraph.kernels.frame.work import Read, Work, touched
from optgraph.ops import Conv, Identity, Pool, Reshape
from optgraph.plan.batches import fitting_batch
from optgraph.plan.buffers import Buffers
from optgraph.plan.plan import Call, Plan
from optgraph.plan.weights import Shapes

_META = torch.device("meta")


@dataclass(frozen=True)
class Cost:
    """What one call of a plan does. launch: None for a fallback, of whose products nothing is known. programs: of the
    launch; 1 for a fallback."""

    call: Call
    work: Work
    programs: int
    launch: Launch | None = None


def costs(plan: Plan, weights: Shapes) -> tuple[Cost, ...]:
    """What each call of `plan` does, in order. weights: of the graph it is a lowering of."""
    buffers = Buffers(plan, weights, _META, poison=False)
    return tuple(_cost(call, plan, buffers, weights) for call in plan.calls)


def moved_per_image(plan: Plan, weights: Shapes) -> int:
    """Activation bytes that the launches of `plan` read and write, by image."""
    return sum(cost.work.moved for cost in costs(plan, weights)) // plan.batch


def bytes_per_image(graph: Graph, dtype: str = "fp32") -> int:
    """Activation bytes that one image moves when every operator reads its inputs and writes its outputs once.

    Weights do not count (a batch shares them), nor operators that move nothing, nor what a stride passes over.
    Floating values count at `dtype`.
    """
    itemsize = ITEMSIZE[float_storage(dtype)]
    total = 0
    for node in graph.nodes():
        if isinstance(node.op, Identity | Reshape):
            continue
        for value in (*node.inputs, *node.outputs):
            if value and value not in graph.constants:
                total += math.prod(d for d in graph.shape(value) if isinstance(d, int)) * itemsize
        if isinstance(node.op, Conv | Pool):
            total -= _passed_over(graph, node) * itemsize
    return total // fitting_batch({name: graph.values[name] for name in graph.inputs}, 1)


def weight_bytes(graph: Graph, dtype: str = "fp32") -> int:
    """Bytes of all constants, floating ones at `dtype`; of int8, those that were integers of 8 bits in the model."""
    itemsize = ITEMSIZE[float_storage(dtype)]
    total = 0
    for name, array in graph.constants.items():
        grid = graph.grids.get(name) if dtype == INT8 else None
        short = grid is not None and ITEMSIZE[grid.dtype] == 1
        total += array.size if short else array.size * itemsize if array.dtype.kind == "f" else array.nbytes
    return total


def _cost(call: Call, plan: Plan, buffers: Buffers, weights: Shapes) -> Cost:
    launch = buffers.bind(call)
    if isinstance(launch, Launch):
        return Cost(call, launch.work, launch.programs, launch)
    reads = [Read(buffers.view(view)) for view in call.reads.values()]
    constants = {
        path: weights.get(weight.key, plan.packed[weight.key]).flatten() for path, weight in call.weights.items()
    }
    return Cost(call, Work(reads, [buffers.view(view) for view in call.written], constants), 1)


def _passed_over(graph: Graph, node: Node) -> int:
    """How many values of its input no window of a convolution or pool reads."""
    op, (*outer, height, width) = node.op, graph.shape(node.inputs[0])
    assert isinstance(op, Conv | Pool)
    rows, columns = graph.shape(node.output)[2:]
    if not (isinstance(height, int) and isinstance(width, int) and isinstance(rows, int) and isinstance(columns, int)):
        return 0
    h = touched(height, rows, op.kernel[0], op.stride[0], op.pads[0], op.dilation[0])
    w = touched(width, columns, op.kernel[1], op.stride[1], op.pads[1], op.dilation[1])
    return (height * width - len(h) * len(w)) * math.prod(d for d in outer if isinstance(d, int))
