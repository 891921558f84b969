"""Constants that come of constants, as import needs them: as a size, as a bias, as the condition of an If.

What is not needed to read the model is left to `passes/simplify/fold_constants.py`. A size is judged before anything is
computed, and all that is computed counts against the budget.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from optgraph.base.arrays import to_array, to_tensor
from optgraph.ir.graph import Graph, Node
from optgraph.ir.values import Dim
from optgraph.ops import Opaque

Outputs = Sequence[tuple[Sequence[Dim], str]]  # shape and dtype of each

# The sizes of their outputs depend on data, but all together have at most so many elements for each of the inputs'.
_BOUNDED = {"Compress": 1, "NonZero": 8, "Unique": 4}


class Folding:
    """What an import has computed so far, by graph value."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._arrays: dict[str, np.ndarray] = {}
        self._fixed: dict[str, Node] = {}  # what computes a value of constants alone
        self._left = graph.budget.folded_bytes

    def note(self, node: Node) -> None:
        """Takes note of an operator of ours that was added: it may be asked for."""
        if not isinstance(node.op, Opaque) and all(not v or self._is_fixed(v) for v in node.inputs):
            self._fixed.update(dict.fromkeys(node.outputs, node))

    def know(self, value: str, array: np.ndarray) -> None:
        """Takes note of a value that is known in another way, by the sizes of the inputs."""
        self._arrays[value] = array

    def array(self, value: str) -> np.ndarray | None:
        """A constant, or what constants alone make; None for what depends on an input, or is over the budget."""
        pending = [value]
        while pending:  # no recursion: a chain may be as long as the model
            node = self._fixed.get(pending[-1])
            missing = [v for v in node.inputs if v and self._found(v) is None and v in self._fixed] if node else []
            if missing:
                pending += missing
                continue
            pending.pop()
            if node is not None and node.outputs[0] not in self._arrays:
                self._compute(node)
        return self._found(value)

    def node(self, node: onnx.NodeProto, arrays: Mapping[str, np.ndarray], outputs: Outputs) -> list[np.ndarray] | None:
        """What an ONNX node makes of constants; None if it cannot be computed, or is over the budget."""
        from optgraph.ops.standard.table import evaluate  # here, for a graph alone needs no torch

        if all(isinstance(d, int) for shape, _ in outputs for d in shape):
            size = sum(_size(shape, dtype) for shape, dtype in outputs)
        elif node.op_type in _BOUNDED:
            size = _BOUNDED[node.op_type] * 8 * sum(array.size for array in arrays.values())
        else:
            return None
        if node.domain not in ("", "ai.onnx") or size > self._left:
            return None
        found = evaluate(node, self._graph.opset, [arrays.get(name) for name in node.input])
        if found is None or len(found) != len(outputs):
            return None
        self._left -= size
        return [np.asarray(array, dtype, order="C") for array, (_, dtype) in zip(found, outputs, strict=True)]

    def _is_fixed(self, value: str) -> bool:
        return value in self._graph.constants or value in self._fixed or value in self._arrays

    def _found(self, value: str) -> np.ndarray | None:
        found = self._graph.constants.get(value)
        return self._arrays.get(value) if found is None else found

    def _compute(self, node: Node) -> None:
        """Computes what a node of ours makes of constants; forgets it if it cannot."""
        values = [self._graph.values[value] for value in node.outputs]
        arrays = [self._found(value) if value else None for value in node.inputs]
        known = all(array is not None or not v for array, v in zip(arrays, node.inputs, strict=True))
        results: Sequence[Any] = ()
        if known and all(isinstance(d, int) for value in values for d in value.shape):
            size = sum(_size(value.shape, value.dtype) for value in values)
            if size <= self._left:
                self._left -= size
                try:
                    results = node.op.compute([None if array is None else to_tensor(array) for array in arrays])
                except Exception:  # whatever torch says: the node stays in the graph, which says so when it is run
                    results = ()
        if not results:
            for name in node.outputs:
                self._fixed.pop(name, None)
        for name, value, tensor in zip(node.outputs, values, results, strict=False):
            self._arrays[name] = np.asarray(to_array(tensor), value.dtype, order="C")


def _size(shape: Sequence[Dim], dtype: str) -> int:
    return math.prod(int(d) for d in shape) * np.dtype(dtype).itemsize
