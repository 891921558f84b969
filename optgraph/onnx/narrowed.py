"""A model with its bfloat16 and float64 numbers as float32, for ONNX Runtime, which has few operators of these."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

_OTHERS = frozenset((TensorProto.BFLOAT16, TensorProto.DOUBLE))


def in_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` in which every tensor of these types, and every Cast to them, is of float32."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    graph = copy.graph
    for info in (*graph.input, *graph.output, *graph.value_info):
        if info.type.tensor_type.elem_type in _OTHERS:
            info.type.tensor_type.elem_type = TensorProto.FLOAT
    for tensor in graph.initializer:
        _narrow(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                _narrow(attribute.t)
            elif attribute.name in ("to", "dtype", "output_dtype") and attribute.i in _OTHERS:
                attribute.i = TensorProto.FLOAT
    return copy


def _narrow(tensor: TensorProto) -> None:
    if tensor.data_type in _OTHERS:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
