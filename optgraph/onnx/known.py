"""What an import knows of values while it reads the nodes: arrays of constants, and vectors of sizes with symbols."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from optgraph.ir.graph import Graph
from optgraph.ir.values import Dim, volume
from optgraph.onnx import shape_arithmetic
from optgraph.onnx.folding import Folding
from optgraph.onnx.symbols import is_symbol
from optgraph.ops.importing import attributes


class Known:
    """Names are those of ONNX values; `value` gives the graph's for one."""

    def __init__(self, graph: Graph, value: Callable[[str], str]) -> None:
        self.folding = Folding(graph)
        self._graph = graph
        self._value = value
        self._vectors: dict[str, shape_arithmetic.Vector] = {}
        self._settled: list[str] = []

    def constant(self, name: str) -> np.ndarray | None:
        """The array of a constant, of shape arithmetic without a symbol, or of what constants alone make."""
        return self.folding.array(self._value(name))

    def dims(self, name: str) -> list[Dim] | None:
        """The elements of a shape vector, symbols included; None if it is not known."""
        vector = self._vector(name)
        return None if vector is None else list(vector.flat)

    def follow(self, node: onnx.NodeProto) -> None:
        """Follows shape arithmetic through a node of ONNX's own domain, once it is in the graph."""
        result = None
        if node.op_type in ("Shape", "Size"):
            result = self._size(node)
        elif node.op_type in shape_arithmetic.OPERATORS and node.input and self._vector(node.input[0]) is not None:
            operands = [self._vector(name) for name in node.input]
            dtype = self._graph.values[self._value(node.output[0])].dtype
            result = shape_arithmetic.evaluate(node.op_type, attributes(node), operands, dtype)
        if result is None:
            return
        self._vectors[node.output[0]] = result
        if not _symbolic(result):
            value = self._value(node.output[0])
            self.folding.know(value, result.astype(self._graph.values[value].dtype))
            if any(_symbolic(self._vectors[name]) for name in node.input if name in self._vectors):
                self._settled.append(node.output[0])

    def settle(self) -> None:
        """Makes constants of the numbers that were taken out of shapes with a symbol, as a count of channels is.

        What depends on these alone, `passes/simplify/fold_constants.py` computes.
        """
        for name in self._settled:
            value, array = self._value(name), self.constant(name)
            if array is not None and value not in self._graph.constants:
                self._graph.rewire(value, self._graph.add_constant(array, name))

    def _size(self, node: onnx.NodeProto) -> shape_arithmetic.Vector | None:
        shape = self._graph.shape(self._value(node.input[0]))
        if node.op_type == "Shape":
            attrs = attributes(node)
            return np.array(shape[slice(attrs.get("start"), attrs.get("end"))], dtype=object)
        size = volume(shape)
        return None if size is None else np.array(size, dtype=object)

    def _vector(self, name: str) -> shape_arithmetic.Vector | None:
        """A value as a vector of numbers and symbols; None if it is not known, or no such vector."""
        if name in self._vectors or not name:
            return self._vectors.get(name)
        array = self._graph.constants.get(self._value(name))
        return None if array is None else shape_arithmetic.as_vector(array)


def _symbolic(vector: shape_arithmetic.Vector) -> bool:
    return any(map(is_symbol, vector.flat))
