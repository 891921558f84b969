"""What a graph and its launches cost, counted and never timed: bytes of memory touched, and multiply-adds.

How long that may take on a GPU is for `predict` to say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from optgraph.ir.graph import Graph, Node
from optgraph.ops import Conv, Identity, Pool, Reshape
from optgraph.plan.lowering import STORAGE, fitting_batch
from optgraph.plan.plan import ITEMSIZE, Call, Plan, View

_SECTOR = 32  # bytes: the least a GPU reads
_WORTH = 2**20  # pieces to look at one by one; of more, none is taken to share a sector or to leave a gap


@dataclass(frozen=True)
class Work:
    """What one launch does. An operand counts once: reading it again meets a cache.

    read, written:  activation bytes. What a stride passes over does not count.
    weights:        bytes of its constants.
    flops:          of the product with each of its weight matrices, by name; none are known of a fallback.
    """

    call: Call
    read: int
    written: int
    weights: int
    flops: Mapping[str, int]

    @property
    def moved(self) -> int:
        """Activation bytes."""
        return self.read + self.written


def work(graph: Graph, plan: Plan) -> tuple[Work, ...]:
    """What each launch of `plan`, a lowering of `graph`, does; in order."""
    return tuple(_work(graph, plan, call) for call in plan.calls)


def moved_per_image(graph: Graph, plan: Plan) -> int:
    """Activation bytes that the launches of `plan` read and write, by image."""
    return sum(launch.moved for launch in work(graph, plan)) // plan.batch


def bytes_per_image(graph: Graph, dtype: str = "fp32") -> int:
    """Activation bytes that one image moves when every operator reads its inputs and writes its outputs once.

    Weights do not count (a batch shares them), nor operators that move nothing, nor what a stride passes over.
    Floating values count at `dtype`.
    """
    itemsize = ITEMSIZE[STORAGE[dtype]]
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
    """Bytes of all constants, floating ones at `dtype`."""
    itemsize = ITEMSIZE[STORAGE[dtype]]
    return sum(a.size * itemsize if a.dtype.kind == "f" else a.nbytes for a in graph.constants.values())


# ---- one launch


def _work(graph: Graph, plan: Plan, call: Call) -> Work:
    sources = {
        name: [graph.constants[source].shape for source in plan.packed[key].sources if source]
        for name, key in call.weights.items()
        if key
    }
    sizes = {name: sum(map(math.prod, shapes)) for name, shapes in sources.items()}
    products = (
        [] if call.name == "fallback" else [name for name, shapes in sources.items() if any(len(s) > 1 for s in shapes)]
    )
    out = call.written()[0]
    positions = _window_positions(call, [shape for name in products for shape in sources[name]])
    return Work(
        call=call,
        read=sum(_read_bytes(view, positions if name == "x" else {}) for name, view in call.reads.items()),
        # Whole bytes: parts of a sector that several launches write meet in the cache.
        written=sum(view.bytes for view in call.written()),
        weights=sum(size * ITEMSIZE[plan.packed[call.weights[name]].dtype] for name, size in sizes.items()),
        # Every weight meets every pixel of the output once; padding counts as pixels.
        flops={name: 2 * math.prod(out.shape[:-1]) * sizes[name] for name in products},
    )


def _window_positions(call: Call, weights: Sequence[tuple[int, ...]]) -> dict[int, Sequence[int]]:
    """The rows (axis 1) and columns (axis 2) of `x` that the call's windows touch; {} if it has no windows."""
    out, options = call.written()[0], call.options
    kernels = [options["kernel"]] if "kernel" in options else [shape[2:] for shape in weights if len(shape) == 4]
    if "stride" not in options or not kernels:
        return {}
    pads, dilation = options.get("pads", (0, 0, 0, 0)), options.get("dilation", (1, 1))
    return {
        1 + i: _touched(
            call.reads["x"].shape[1 + i],
            out.shape[1 + i],
            max(kernel[i] for kernel in kernels),
            options["stride"][i],
            pads[i],
            dilation[i],
        )
        for i in (0, 1)
    }


def _touched(size: int, windows: int, kernel: int, stride: int, before: int, dilation: int) -> Sequence[int]:
    """Positions of an axis of `size` that some of `windows` windows reads, the first beginning `before` the axis."""
    last = (windows - 1) * stride - before  # where the last window begins
    if kernel == 1:
        return range(-before % stride, min(last, size - 1) + 1, stride)
    if dilation == 1 and kernel >= stride:
        return range(min(last + kernel, size))
    if windows * kernel > _WORTH:
        return range(size)
    starts = range(-before, last + 1, stride)
    return sorted({p for start in starts for tap in range(kernel) if 0 <= (p := start + tap * dilation) < size})


def _read_bytes(view: View, positions: Mapping[int, Sequence[int]]) -> int:
    """Bytes that a read of `view` touches, at some positions of an axis or, by default, at all: of pieces that lie
    apart the sectors they are in. The first image stands for the others."""
    itemsize = ITEMSIZE[view.dtype]
    axes = [
        (stride, positions.get(axis, range(size)))
        for axis, (size, stride) in enumerate(zip(view.shape, view.strides, strict=True))
        if axis > 0 and size != 1
    ]
    axes.sort(key=lambda axis: axis[0])
    images, run = math.prod(view.shape[:1]), 1  # run: values that follow one another
    while axes and axes[0][0] == run and axes[0][1] and axes[0][1][-1] - axes[0][1][0] < len(axes[0][1]):
        run *= len(axes.pop(0)[1])
    pieces = math.prod(len(found) for _, found in axes)
    if not axes or pieces > _WORTH:
        return images * pieces * run * itemsize
    starts = np.array([view.offset])
    for stride, found in axes:
        starts = np.add.outer(stride * np.array(found, np.int64), starts).ravel()
    starts.sort()
    first, last = starts * itemsize // _SECTOR, ((starts + run) * itemsize - 1) // _SECTOR
    counted = np.concatenate(([-1], last[:-1])) + 1  # the first sector that the pieces before leave
    return images * int((last + 1 - np.maximum(first, counted)).clip(0).sum()) * _SECTOR


def _passed_over(graph: Graph, node: Node) -> int:
    """How many values of its input no window of a convolution or pool reads."""
    op, (*outer, height, width) = node.op, graph.shape(node.inputs[0])
    assert isinstance(op, Conv | Pool)
    rows, columns = graph.shape(node.output)[2:]
    if not (isinstance(height, int) and isinstance(width, int) and isinstance(rows, int) and isinstance(columns, int)):
        return 0
    h = _touched(height, rows, op.kernel[0], op.stride[0], op.pads[0], op.dilation[0])
    w = _touched(width, columns, op.kernel[1], op.stride[1], op.pads[1], op.dilation[1])
    return (height * width - len(h) * len(w)) * math.prod(d for d in outer if isinstance(d, int))
