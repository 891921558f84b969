"""Networks that go wrong on purpose: a weight that a pass changes, behind the back of the original model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from optgraph.api import compiling
from optgraph.api.net import Net
from optgraph.ir.graph import Graph
from optgraph.onnx.write import save_onnx
from optgraph.passes import pipeline
from optgraph.passes.rewrite import Outcome


def saved(graph: Graph, folder: Path) -> Path:
    """`graph` as an ONNX model in `folder`."""
    path = folder / "model.onnx"
    save_onnx(graph, path)
    return path


def rewritten(path: Path, change: Any) -> Path:
    """Applies `change` to the ONNX model at `path`."""
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)
    return path


def sabotage(index: int, factor: float = 1.1, forget_after: bool = False) -> pipeline.Pass:
    """A pass that changes the weight of the index-th node that has one; `forget_after`: and hides what follows."""

    def run(graph: Graph) -> Outcome:
        nodes = graph.nodes()
        victim = [node for node in nodes if "w" in node.op.slots][index]
        w = graph.constants[victim.get("w")] * np.float32(factor)
        graph.update(victim, inputs=victim.inputs_with(w=graph.add_constant(w)), same_value=True)
        if forget_after:
            for node in nodes[nodes.index(victim) :]:
                for value in node.outputs:
                    graph.sources.pop(value, None)
        return Outcome(1)

    return pipeline.Pass("sabotage", "sabotage", run)


def sabotaged(path: Path, backend: str, index: int, **options: Any) -> Net:
    """The model at `path` compiled with `sabotage`."""
    broken = (sabotage(index, **options),)
    if backend == "onnxruntime":
        return compiling.compile(path, backend, simplify_passes=pipeline.SIMPLIFY + broken)
    return compiling.compile(path, backend, fuse_passes=pipeline.FUSE + broken)
