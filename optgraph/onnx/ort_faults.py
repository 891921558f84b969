"""What ONNX Runtime 1.31 gets wrong, and how its sessions and the files written for it keep clear of it.

- Pad_Fusion, one of its optimisations, makes a Pad of zeros the padding of the max pool behind it, where no zero can
  win; and gives a pool padding of a whole window, which it then refuses. Sessions go without (`OFF`). In a file that
  others run, the Pad pads with -0.0 (`apart_from_pools`): it takes only the bits of 0 for zero.
- Where a convolution or product stands between DequantizeLinear and QuantizeLinear, it computes all of it in integers,
  which is up to two steps of the 8-bit output off what the operators say. Sessions compute them as they say (`EXACT`).
- WeightBiasQuantization, another, makes the float weight of a convolution between DequantizeLinear and QuantizeLinear
  an int8 one, with one scale for all of it: what is to stay in float does not. Sessions go without.
- DoubleQDQPairsRemover, another, makes one of two pairs of QuantizeLinear and DequantizeLinear, which rounds once
  instead of twice. Sessions go without.
- It writes the unnamed outputs of a BatchNormalization or a Split all the same, and dies (`named_outputs`).
- Its Sigmoid is off by 2e-4 of the answer at -8, by 7e-2 at -14, and 0 from -18 on, where torch's is off by 7e-8
  (`exact_sigmoid`). Measured beside it, from -100 to 100 and against float64: Tanh, Erf, Exp, Softplus, Elu, Mish,
  Gelu, Softsign and HardSwish are off by at most 3e-7 of the larger of the answer and 1, Softmax by 4e-6 of the answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OFF = ("Pad_Fusion", "WeightBiasQuantization", "DoubleQDQPairsRemover")  # optimisations
EXACT = {"session.disable_quant_qdq": "1"}  # session options

_POOLS = {"AveragePool", "LpPool", "MaxPool"}
_FLOATS = {TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}


def apart_from_pools(graph: onnx.GraphProto) -> None:
    """Gives every Pad of zeros that a pool reads the value -0.0, which is as little and adds as much."""
    read = {name for node in graph.node if node.op_type in _POOLS for name in node.input[:1]}
    pads = [node for node in graph.node if node.op_type == "Pad" and node.output[0] in read and len(node.input) > 2]
    arrays = {tensor.name: tensor for tensor in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input)
    for node in pads:
        tensor = arrays.get(node.input[2])
        value = None if tensor is None else numpy_helper.to_array(tensor)
        if tensor is None or value is None or value.dtype.kind != "f" or value.any():
            continue
        minus_zero = np.negative(np.abs(value))
        if readers[tensor.name] == 1:
            tensor.CopyFrom(numpy_helper.from_array(minus_zero, tensor.name))
        else:
            node.input[2] = f"{node.output[0]}/minus_zero"
            graph.initializer.append(numpy_helper.from_array(minus_zero, node.input[2]))


def named_outputs(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """`nodes`, those with unnamed outputs as copies in which the last ones are gone and the others have a name.

    A Split keeps them all, for their number says how it splits.
    """
    return [node if all(node.output) else _named(node) for node in nodes]


def _named(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto.FromString(node.SerializeToString())
    outputs = list(node.output)
    while outputs and not outputs[-1] and node.op_type != "Split":
        outputs.pop()
    first = next(filter(None, outputs), node.name)
    del copy.output[:]
    copy.output.extend(name or f"{first}/unnamed{i}" for i, name in enumerate(outputs))
    return copy


def exact_sigmoid(graph: onnx.GraphProto) -> None:
    """Writes each Sigmoid as 1 / (1 + exp(-x)), if the floats of `graph` are float32: in fewer bits Exp overflows."""
    if not any(node.op_type == "Sigmoid" for node in graph.node) or any(t in _FLOATS for t in _types(graph)):
        return
    one = "sigmoid/one"
    graph.initializer.append(numpy_helper.from_array(np.array(1, np.float32), one))
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type != "Sigmoid" or node.domain not in ("", "ai.onnx"):
            nodes.append(node)
            continue
        (y,) = node.output
        minus, exp, total = f"{y}/minus", f"{y}/exp", f"{y}/sum"
        nodes.append(helper.make_node("Neg", [node.input[0]], [minus]))
        nodes.append(helper.make_node("Exp", [minus], [exp]))
        nodes.append(helper.make_node("Add", [exp, one], [total]))
        nodes.append(helper.make_node("Div", [one, total], [y], name=node.name))
    del graph.node[:]
    graph.node.extend(nodes)


def _types(graph: onnx.GraphProto) -> Iterator[int]:
    """The types of numbers that a value of `graph` may be of, as far as they can come from outside or be asked for."""
    yield from (tensor.data_type for tensor in graph.initializer)
    yield from (info.type.tensor_type.elem_type for info in graph.input)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype"):
                yield attribute.i
            elif attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t.data_type
