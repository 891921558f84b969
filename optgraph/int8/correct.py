"""Biases that make up for what rounding adds on average.

    b  ->  b + mean(w * x - q(w) * q(x))        over pictures and pixels, a channel at a time

Rounded weights do not add up to what the exact ones do, so a channel's mean moves, by the same for every picture. It
is measured with float inputs, so that what one layer's bias becomes does not depend on which others are in int8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from optgraph.base.progress import Progress, silent
from optgraph.int8.layers import Layer
from optgraph.int8.losses import INPUT, WEIGHTS, alone, everything
from optgraph.ir.graph import Graph
from optgraph.onnx.sessions import Feeds
from optgraph.onnx.stripped import copied
from optgraph.run.reference import Executor

BIAS = 2  # the slot of it
WITH_BIAS = ("Conv", "Gemm")


def with_biases(model: onnx.ModelProto) -> None:
    """Gives each Conv and Gemm without a bias one of zeros, and each a bias of its own."""
    arrays = {tensor.name: tensor for tensor in model.graph.initializer}
    used = {name for node in model.graph.node for name in (*node.input, *node.output)}
    seen: set[str] = set()
    for node in model.graph.node:
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        if node.op_type not in WITH_BIAS or node.input[1] not in arrays or (node.op_type == "Gemm" and not transposed):
            continue
        given = node.input[BIAS] if len(node.input) > BIAS else ""
        if given and (given not in arrays or given not in seen):
            seen.add(given)
            continue
        weight = arrays[node.input[1]]
        zeros = np.zeros(weight.dims[0], onnx.helper.tensor_dtype_to_np_dtype(weight.data_type))
        array = numpy_helper.to_array(arrays[given]) if given else zeros
        name = f"{node.output[0]}/bias"
        while name in used:
            name += "_"
        used.add(name)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
        node.input[:] = [*node.input[:BIAS], name]


def corrections(
    graph: Graph, layers: Sequence[Layer], pictures: Sequence[Feeds], progress: Progress = silent
) -> dict[str, np.ndarray]:
    """What is to be added to the bias of each layer that has one, by the name of its node. graph: in float."""
    executor = Executor(graph)
    found = [layer for layer in layers if layer.op in WITH_BIAS and BIAS in layer.weights]
    means = {layer.node.name: np.zeros(len(layer.weights[BIAS])) for layer in found}
    for i, feeds in enumerate(pictures):
        progress("correcting biases", i / len(pictures))
        values = everything(executor, feeds)
        for layer in found:
            off = values[layer.node.output] - alone(executor, graph, layer, values, [INPUT, WEIGHTS], last=False)
            means[layer.node.name] += off.double().transpose(0, 1).flatten(1).mean(1).numpy() / len(pictures)
    return means


def corrected(model: onnx.ModelProto, added: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """A copy of `model`, from `with_biases`, with this added to the biases of its nodes."""
    new = copied(model)
    arrays = {tensor.name: tensor for tensor in new.graph.initializer}
    for node in new.graph.node:
        if node.name in added:
            tensor = arrays[node.input[BIAS]]
            bias = numpy_helper.to_array(tensor) + added[node.name]
            tensor.CopyFrom(numpy_helper.from_array(bias.astype(np.float32), tensor.name))
    return new
