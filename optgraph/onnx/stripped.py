"""Models without their weights: a large tensor keeps its name, shape and type and has no data.

In the file, it is EXTERNAL with the location 'stripped'. `calibrate.py` fills such tensors in.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from optgraph.onnx.external_data import STRIPPED, is_stripped

STRIPPED_ABOVE = 4096  # values; what is smaller stays in a stripped file


def any_stripped(model: onnx.ModelProto) -> bool:
    """Whether a tensor of the model has had its data removed."""
    return any(map(is_stripped, parameters(model).values()))


def strip(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without the data of tensors of more than STRIPPED_ABOVE values."""
    model = copied(model)
    for tensor in parameters(model).values():
        if np.prod(tensor.dims, dtype=np.int64) > STRIPPED_ABOVE:
            tensor.CopyFrom(bare(tensor.name, tensor.dims, tensor.data_type))
    return model


def bare(name: str, dims: Iterable[int], data_type: int) -> onnx.TensorProto:
    """A stripped tensor."""
    tensor = onnx.TensorProto(name=name, dims=[int(d) for d in dims], data_type=data_type)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=STRIPPED)
    return tensor


def store_fills(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with an initializer for each floating ConstantOfShape of a constant shape, stripped if it is a large one.

    So are the models that the onnx package ships: their structure is real, their weights are all 0.02.
    """
    model = copied(model)
    tensors, nodes = parameters(model), list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        shape = tensors.get(node.input[0]) if node.op_type == "ConstantOfShape" else None
        fill = node.attribute[0].t if node.attribute else numpy_helper.from_array(np.zeros(1, np.float32))
        if shape is None or not is_float(helper.tensor_dtype_to_np_dtype(fill.data_type)):
            model.graph.node.append(node)
            continue
        dims = numpy_helper.to_array(shape)
        if dims.prod() > STRIPPED_ABOVE:
            model.graph.initializer.append(bare(node.output[0], dims, fill.data_type))
        else:
            array = np.full(dims, numpy_helper.to_array(fill).item(), numpy_helper.to_array(fill).dtype)
            model.graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
    return model


def parameters(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """The tensors of the initializers and the Constant nodes, by value name."""
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = node.attribute[0].t
    return found


def is_float(dtype: np.dtype[Any]) -> bool:
    return np.issubdtype(dtype, np.floating)


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy
