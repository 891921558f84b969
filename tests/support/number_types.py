"""A model with other types of numbers."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper, numpy_helper


def of_type(model: onnx.ModelProto, kind: int) -> onnx.ModelProto:
    """`model` with float32 numbers of another type."""
    twin = onnx.ModelProto.FromString(model.SerializeToString())
    for info in (*twin.graph.input, *twin.graph.output, *twin.graph.value_info):
        if info.type.tensor_type.elem_type == TensorProto.FLOAT:
            info.type.tensor_type.elem_type = kind
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    scales = {
        node.input[2] for node in twin.graph.node if node.op_type in ("Resize", "Upsample") and len(node.input) > 2
    }
    for tensor in twin.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in scales:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))
    for node in twin.graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = kind
            elif attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
                attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(dtype)))
    return twin
