"""Numbers rounded to a grid of 8 bits, and constants that were integers: what is left of QuantizeLinear and
DequantizeLinear once a graph holds real numbers throughout (see `ir/quant.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from optgraph.ir.graph import Graph
from optgraph.ir.grids import values_on_grids
from optgraph.ir.op import Exporter, Inputs, Node, Op, Outputs
from optgraph.ir.quant import LEAST_SCALE, Grid, Quant
from optgraph.ir.values import IDENTITY
from optgraph.kernels.elementwise import ELEMENTWISE
from optgraph.kernels.frame.ends import Prologue
from optgraph.ops import exporting
from optgraph.ops.elements import elements
from optgraph.ops.importing import attributes
from optgraph.plan.lowering import Lowering

_INTEGERS = {"int8", "uint8", "int32"}


@dataclass(frozen=True, kw_only=True)
class FakeQuantize(Op):
    """The nearest number of a grid, which QuantizeLinear and DequantizeLinear give together.

    unsigned: whether these say it in uint8, on the grid 128 higher.
    """

    writes_channels = True
    integers = True
    quant: Quant
    unsigned: bool = False

    def on_grid(self, grids: Sequence[Quant | None], output: int = 0) -> Quant | None:
        return self.quant

    def export(self, to: Exporter, node: Node) -> None:
        x = to.name(node.inputs[0])
        exporting.finish(to, node.output, x, IDENTITY, quants=(self.quant,), unsigned=self.unsigned)

    def compute(self, inputs: Inputs) -> Outputs:
        (x,) = self.per_slot(inputs)
        return (self.quant.apply(x),)

    def lower(self, context: Lowering, node: Node) -> None:
        (x,), out = elements(context, node, node.inputs[0])
        pre = Prologue(quant=context.quant(node.inputs[0]))
        context.call(ELEMENTWISE, node, x=x, out=out, before=pre, quants=(self.quant,))


def grid_of(node: onnx.NodeProto, arrays: Sequence[np.ndarray | None]) -> Grid | None:
    """The grid that the output of a DequantizeLinear of constants lies on; None for what has none of our kind."""
    if node.op_type != "DequantizeLinear" or node.domain not in ("", "ai.onnx") or len(arrays) < 2:
        return None
    x, scale, zero = (*arrays, None)[:3]
    attrs = attributes(node)
    if x is None or scale is None or attrs.get("block_size", 0) or str(x.dtype) not in _INTEGERS:
        return None
    axis = int(attrs.get("axis", 1))
    axis += x.ndim if axis < 0 else 0
    fits = scale.size == 1 or (scale.ndim == 1 and axis < x.ndim and scale.size == x.shape[axis])
    scales = tuple(map(float, scale.reshape(-1)))
    zeros = (0,) * scale.size if zero is None else tuple(map(int, zero.reshape(-1)))
    if not fits or len(zeros) != len(scales) or not all(LEAST_SCALE <= s < float("inf") for s in scales):
        return None
    return Grid(str(x.dtype), scales, zeros, axis if len(scales) > 1 else 0)


def on_grids(graph: Graph) -> bool:
    """Whether a value of the graph lies on a grid."""
    return bool(graph.grids) or bool(values_on_grids(graph))


OPS = (FakeQuantize,)
