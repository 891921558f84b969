"""A model with its floating numbers of other types as float32.

Those of fewer bits are so computed on every backend, and ONNX Runtime has few operators of bfloat16 and of doubles.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from optgraph.onnx.scopes import subgraphs

SHORT = frozenset((TensorProto.FLOAT16, TensorProto.BFLOAT16))
OTHERS = SHORT | {TensorProto.DOUBLE}

Types = Collection[int]


def in_float32(model: onnx.ModelProto, types: Types = OTHERS) -> onnx.ModelProto:
    """A copy of `model` in which every tensor of these types, and every Cast to them, is of float32."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for graph in _graphs(copy.graph):
        for info in (*graph.input, *graph.output, *graph.value_info):
            if info.type.tensor_type.elem_type in types:
                info.type.tensor_type.elem_type = TensorProto.FLOAT
        for tensor in graph.initializer:
            _convert(tensor, types)
        for attribute in _attributes(graph):
            if attribute.type == onnx.AttributeProto.TENSOR:
                _convert(attribute.t, types)
            elif _says_type(attribute) and attribute.i in types:
                attribute.i = TensorProto.FLOAT
    return copy


def has(model: onnx.ModelProto, types: Types) -> bool:
    """Whether an input, a weight or a Cast of `model` is of these types."""
    return any(found in types for graph in _graphs(model.graph) for found in _types(graph))


def narrowed(array: np.ndarray, types: Types = OTHERS) -> np.ndarray:
    """`array` in float32, if it is of these types."""
    return array.astype(np.float32) if helper.np_dtype_to_tensor_dtype(array.dtype) in types else array


def _types(graph: onnx.GraphProto) -> Iterator[int]:
    yield from (info.type.tensor_type.elem_type for info in graph.input)
    yield from (tensor.data_type for tensor in graph.initializer)
    for attribute in _attributes(graph):
        if attribute.type == onnx.AttributeProto.TENSOR:
            yield attribute.t.data_type
        elif _says_type(attribute):
            yield attribute.i


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """`graph`, and those inside its nodes."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from _graphs(inner)


def _attributes(graph: onnx.GraphProto) -> Iterator[onnx.AttributeProto]:
    return (attribute for node in graph.node for attribute in node.attribute)


def _says_type(attribute: onnx.AttributeProto) -> bool:
    return attribute.name in ("to", "dtype", "output_dtype")


def _convert(tensor: TensorProto, types: Types) -> None:
    if tensor.data_type in types:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
