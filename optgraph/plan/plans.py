"""The plans of one network, each lowered once, whoever asks for it."""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import Any

from optgraph.base.devices import Target
from optgraph.base.dtypes import check_dtype
from optgraph.ir.graph import Graph
from optgraph.plan.lowering import lower
from optgraph.plan.plan import Plan
from optgraph.plan.weights import Shapes


class Plans:
    """Plans of a fused graph by batch and target, made on first use and kept; threads may share it.

    shapes: the weights of all of them, to look at what they launch.
    """

    def __init__(self, graph: Graph, dtype: str, keep: Collection[str] = ()) -> None:
        """keep: ONNX nodes whose regions stay in float32. Raises InputError for an unknown dtype."""
        check_dtype(dtype)
        self.keep = tuple(keep)
        self.graph = graph
        self.dtype = dtype
        self.shapes = Shapes(graph.constants)
        self._made: dict[tuple[int, Target], Plan] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """How it is pickled and copied: without the plans, which can be made again."""
        return Plans, (self.graph, self.dtype, self.keep)

    def get(self, batch: int, target: Target) -> Plan:
        """The plan for `batch` images on `target`. Raises as `lower` does."""
        with self._lock:
            key = batch, target
            if key not in self._made:
                self._made[key] = lower(self.graph, batch, self.dtype, target, self.keep)
            return self._made[key]
