"""An Opaque operator as ONNX of a recent opset.

Operators change between opsets: Softmax ran over all axes from `axis` on until 13, Upsample became Resize. ONNX's
reference implementation knows only some of the old meanings, and one file has one opset, so an old operator first goes
through ONNX's version converter.
"""

from __future__ import annotations

import onnx
from onnx import helper, version_converter

from optgraph.base.errors import ModelError
from optgraph.ops import Opaque

OPSET = 17  # of everything that asks for no later one; ONNX Runtime 1.22 and much older ones read it


def as_graph(op: Opaque, opset: int, target: int) -> onnx.GraphProto:
    """`op`, written for `opset`, as a graph for `target` of in0, in1, ... -> out0, out1, ...; absent inputs are ''.

    One node, unless the operator has changed in between. Raises ModelError for an operator that ONNX does not know or
    cannot convert.
    """
    node = onnx.NodeProto.FromString(op.proto)
    node.domain = op.domain
    # Named by slot, since rewrites rename the values around a node.
    inputs = [f"in{i}" if name else "" for i, name in enumerate(node.input)]
    outputs = [f"out{i}" for i in range(len(node.output))]
    del node.input[:], node.output[:]
    node.input.extend(inputs)
    node.output.extend(outputs)
    graph = helper.make_graph(
        [node],
        op.op_type,
        [helper.make_empty_tensor_value_info(name) for name in inputs if name],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
    )
    if op.domain or _since(op, opset) == _since(op, target):
        return graph
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    try:
        return version_converter.convert_version(model, target).graph
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"cannot be converted from opset {opset} to {target}: {reason}") from None


def _since(op: Opaque, opset: int) -> int:
    """The opset that gave the operator the meaning it has in `opset`."""
    try:
        return int(onnx.defs.get_schema(op.op_type, opset, "").since_version)
    except onnx.defs.SchemaError:
        raise ModelError(f"ONNX opset {opset} has no such operator") from None
