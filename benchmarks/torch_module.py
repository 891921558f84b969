"""A simplified graph as a torch module: what the torch peers run, so that all sides compute the same network.

Each operator is the standard torch function that says it (its `compute`: F.conv2d, F.max_pool2d, torch.cat ...),
as a person would write the module by hand; `torch.compile` traces it whole.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from optgraph import ops
from optgraph.ir.graph import Graph


class Network(nn.Module):
    """`graph` as a module of one input and, for one output, one result. Its weights are buffers, in float32."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self._inputs = tuple(graph.inputs)
        self._outputs = tuple(graph.outputs.values())
        self._buffer = {value: f"constant_{i}" for i, value in enumerate(graph.constants)}
        for value, name in self._buffer.items():
            self.register_buffer(name, torch.tensor(graph.constants[value]))
        self._steps = []
        for node in graph.nodes():
            shape = graph.shape(node.output) if isinstance(node.op, ops.Reshape) else ()
            op = replace(node.op, shape=shape) if shape else node.op  # with -1 resolved, at most the batch is open
            self._steps.append((op.function({**graph.domains, "": graph.opset}), tuple(node.inputs), node.outputs))

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        values = dict(zip(self._inputs, inputs, strict=True))
        for value, name in self._buffer.items():
            values[value] = getattr(self, name)
        for compute, read, written in self._steps:
            results = compute([values[value] if value else None for value in read])
            values.update(zip(written, results, strict=True))
        outputs = tuple(values[value] for value in self._outputs)
        return outputs[0] if len(outputs) == 1 else outputs
