"""Conv + Relu as one node of standard ONNX: a call of a model-local function.

    y = Relu(Conv(x, w, b))   ->   y = optgraph.ConvRelu(x, w, b)

The model carries the function's body (ONNX IR, section "Model Local Functions"), so any runtime that reads opset 15
runs it: ONNX Runtime inlines it at load and fuses as it always would. It is how a standard model can say what
optimisers otherwise say with operators of their own, such as com.microsoft.FusedConv.

Legal: the Conv's output is read by the Relu alone and is no output of the model.
"""

from __future__ import annotations

from collections import Counter

import onnx
from onnx import AttributeProto, helper

DOMAIN = "optgraph"
MIN_IR_VERSION = 8  # the first with functions in a model
_ATTRIBUTES = {
    "dilations": AttributeProto.INTS,
    "group": AttributeProto.INT,
    "kernel_shape": AttributeProto.INTS,
    "pads": AttributeProto.INTS,
    "strides": AttributeProto.INTS,
}


def call_conv_relu(model: onnx.ModelProto) -> int:
    """Replaces every Conv and the Relu that alone reads it by one call, in place; returns how many."""
    graph = model.graph
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(output.name for output in graph.output)
    convs = {node.output[0]: node for node in graph.node if node.op_type == "Conv" and uses[node.output[0]] == 1}
    pairs = {node.name: convs[node.input[0]] for node in graph.node if _is_relu_of(node, convs)}
    if not pairs:
        return 0
    folded = {conv.name for conv in pairs.values()}
    nodes = []
    for node in graph.node:
        if node.name in folded:
            continue
        nodes.append(_call(pairs[node.name], node.output[0]) if node.name in pairs else node)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    opset = next(o.version for o in model.opset_import if not o.domain)
    model.functions.append(_function(opset))
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    model.ir_version = max(model.ir_version, MIN_IR_VERSION)
    return len(pairs)


def _is_relu_of(node: onnx.NodeProto, convs: dict[str, onnx.NodeProto]) -> bool:
    if node.op_type != "Relu" or node.input[0] not in convs:
        return False
    return {a.name for a in convs[node.input[0]].attribute} == _ATTRIBUTES.keys()


def _call(conv: onnx.NodeProto, output: str) -> onnx.NodeProto:
    call = helper.make_node("ConvRelu", list(conv.input), [output], name=conv.name, domain=DOMAIN)
    call.attribute.extend(conv.attribute)
    return call


def _function(opset: int) -> onnx.FunctionProto:
    conv = helper.make_node("Conv", ["X", "W", "B"], ["C"], name="conv")
    for name, kind in _ATTRIBUTES.items():
        conv.attribute.append(AttributeProto(name=name, type=kind, ref_attr_name=name))
    relu = helper.make_node("Relu", ["C"], ["Y"], name="relu")
    return helper.make_function(
        DOMAIN, "ConvRelu", ["X", "W", "B"], ["Y"], [conv, relu], [helper.make_opsetid("", opset)], list(_ATTRIBUTES)
    )
