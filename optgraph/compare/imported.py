"""Any value of a model as it was imported, by torch in float64: what is left to compare with where ONNX Runtime dies.

It is a second opinion on passes and kernels, but not on import, whose graph it runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import torch

from optgraph.base.budget import Budget
from optgraph.onnx.inlining import inlined
from optgraph.onnx.read import read
from optgraph.onnx.sessions import Feeds
from optgraph.run.reference import Executor


class Imported:
    """As `onnx.sessions.InnerValues`, by torch.

    Raises ModelError if the model cannot be imported with inputs of the shapes of `feeds`, or torch has no form of an
    operator.
    """

    def __init__(self, model: onnx.ModelProto, feeds: Feeds, outputs: Sequence[str], budget: Budget) -> None:
        """outputs: what else than the values inside it is asked for. budget: as for `read`."""
        self._graph = read(model, {name: array.shape for name, array in feeds.items()}, outputs=outputs, budget=budget)
        self._exact = Executor(self._graph, torch.float64)
        self._computed = {value for node in self._graph.nodes() for value in node.outputs}
        self.graph = inlined(model).graph

    def __contains__(self, name: object) -> bool:
        return name in self._computed or name in self._graph.outputs

    def run(self, names: Sequence[str], *runs: Feeds, optimize: bool = False) -> list[dict[str, np.ndarray]]:
        """The named values, for each of the feeds. optimize: in float32, and so as far off as rounding makes them."""
        executor = Executor(self._graph) if optimize else self._exact
        found = (executor(feeds, set(names) & self._computed) for feeds in runs)
        return [{name: values[name].numpy() for name in names} for values in found]

    def stream(self, names: Sequence[str], feeds: Feeds) -> Iterator[np.ndarray]:
        """The named values one after the other, in their order."""
        wanted = set(names)
        kept: dict[str, np.ndarray] = {}
        walk = self._exact.stream(feeds)
        for name in names:
            while name not in kept:
                node, results = next(walk)
                pairs = zip(node.outputs, results, strict=True)
                kept.update((value, result.numpy()) for value, result in pairs if value in wanted)
            yield kept.pop(name)
