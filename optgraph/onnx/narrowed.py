"""A model with its bfloat16 and float64 numbers as float32, for ONNX Runtime, which has few operators of these."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_OTHERS = frozenset((TensorProto.BFLOAT16, TensorProto.DOUBLE))


def in_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` in which every tensor of these types, and every Cast to them, is of float32."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
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


def has_others(model: onnx.ModelProto) -> bool:
    """Whether an input, a weight or a Cast of `model` is of these types."""
    graph = model.graph
    casts = (a.i for node in graph.node for a in node.attribute if a.name in ("to", "dtype", "output_dtype"))
    inputs = (info.type.tensor_type.elem_type for info in graph.input)
    return not _OTHERS.isdisjoint((*casts, *inputs, *(tensor.data_type for tensor in graph.initializer)))


def narrowed(array: np.ndarray) -> np.ndarray:
    """`array` in float32, if it is of these types."""
    return array.astype(np.float32) if helper.np_dtype_to_tensor_dtype(array.dtype) in _OTHERS else array
