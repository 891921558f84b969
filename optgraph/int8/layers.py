"""The layers of a written model that are in integers: the grids of what each reads, and of what it gives."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from optgraph.int8.ranges import ACTIVATE, COMPUTE, PRODUCTS
from optgraph.int8.write import DEQUANTIZE, QUANTIZE
from optgraph.ir.graph import Graph, Node
from optgraph.ir.quant import Quant

_UINT8 = 128  # what a uint8 is above the int8 of the same grid


@dataclass(frozen=True)
class Layer:
    """A node of the float graph that is on grids in the written model, with the activations that it absorbed.

    op: the ONNX operator. last: the last of these activations, or the node itself. inputs: slot -> the grid of what it
    reads there. weights: slot -> a constant as its integers tell it, in real numbers. scales: how many each of these
    has. output: the grid of what `last` gives, None for float.
    """

    node: Node
    op: str
    last: Node
    inputs: Mapping[int, Quant]
    weights: Mapping[int, np.ndarray]
    scales: Mapping[int, int]
    output: Quant | None

    def names(self, graph: Graph) -> list[str]:
        """The nodes that it is made of."""
        found, node = [self.node.name], self.node
        while node is not self.last:
            node = graph.users(node.output)[0][0]
            found.append(node.name)
        return found


def layers(graph: Graph, written: onnx.ModelProto, keep: Collection[str] = ()) -> list[Layer]:
    """What is computed in integers in `written`, of the float `graph`, whose names it has, in order. keep: what is
    in float in it, by name."""
    seen = _Written(written)
    found = []
    for node in graph.nodes():
        proto = seen.nodes.get(node.name)
        if proto is None or proto.op_type not in (*COMPUTE, *ACTIVATE) or node.name in keep:
            continue
        inputs, weights, scales = {}, {}, {}
        for slot, name in enumerate(proto.input):
            dequantize = seen.producer.get(name)
            if dequantize is None or dequantize.op_type != DEQUANTIZE:
                continue
            if dequantize.input[0] in seen.arrays:
                weights[slot], scales[slot] = seen.real(dequantize)
            else:
                inputs[slot] = seen.grid(dequantize)
        if not inputs or (proto.op_type in PRODUCTS and not weights):
            continue
        last = node
        while (after := graph.sole_user(last.output)) is not None and after.name not in seen.nodes:
            last = after
        found.append(Layer(node, proto.op_type, last, inputs, weights, scales, seen.reader_grid(proto.output[0])))
    return found


class _Written:
    """A written model, by what is looked up in it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.arrays = {tensor.name: tensor for tensor in model.graph.initializer}
        self.nodes = {node.name: node for node in model.graph.node if node.op_type not in (QUANTIZE, DEQUANTIZE)}
        self.producer = {name: node for node in model.graph.node for name in node.output}
        self._quantize = {node.input[0]: node for node in model.graph.node if node.op_type == QUANTIZE}

    def reader_grid(self, name: str) -> Quant | None:
        """The grid that a value is put on; None if it is not."""
        node = self._quantize.get(name)
        return None if node is None else self.grid(node)

    def grid(self, node: onnx.NodeProto) -> Quant:
        """Of a QuantizeLinear or DequantizeLinear with one scale."""
        scale, zero = (numpy_helper.to_array(self.arrays[name]) for name in node.input[1:3])
        return Quant(float(scale), int(zero) - (_UINT8 if zero.dtype == np.uint8 else 0))

    def real(self, node: onnx.NodeProto) -> tuple[np.ndarray, int]:
        """What a constant's DequantizeLinear gives, and how many scales it has."""
        integers, scale, zero = (numpy_helper.to_array(self.arrays[name]) for name in node.input)
        if scale.ndim:
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
            shape = [-1 if i == axis % integers.ndim else 1 for i in range(integers.ndim)]
            scale, zero = scale.reshape(shape), zero.reshape(shape)
        real = (integers.astype(np.float32) - zero.astype(np.float32)) * scale
        return np.asarray(real, np.float32), scale.size
