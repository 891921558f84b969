"""An ONNX model cut off at the tensors asked for.

It is cut before it is imported, so that what lies behind the cut need not be supported.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence

import onnx

from optgraph.base.errors import InputError
from optgraph.onnx.scopes import names_read


def cut(model: onnx.ModelProto, outputs: Sequence[str]) -> onnx.ModelProto:
    """The part of `model` that computes `outputs`, names of tensors in it, which become its outputs.

    Raises InputError for a name that no node computes.
    """
    whole = model.graph
    computed = dict.fromkeys(name for node in whole.node for name in node.output if name)
    for name in outputs:
        if name not in computed:
            raise InputError(f"cannot cut at '{name}': {_instead(name, model, computed)}")
    nodes, read = upstream(whole, outputs)
    part = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    part.graph.name = whole.name
    part.graph.node.extend(nodes)
    part.graph.input.extend(value for value in whole.input if value.name in read)
    part.graph.initializer.extend(tensor for tensor in whole.initializer if tensor.name in read)
    part.graph.sparse_initializer.extend(tensor for tensor in whole.sparse_initializer if tensor.values.name in read)
    known = {value.name: value for value in (*whole.value_info, *whole.output)}
    part.graph.output.extend(known.get(name, onnx.ValueInfoProto(name=name)) for name in dict.fromkeys(outputs))
    return part


def upstream(graph: onnx.GraphProto, names: Collection[str]) -> tuple[list[onnx.NodeProto], set[str]]:
    """The nodes that the named values depend on, in order, and all values that these read."""
    wanted, nodes = set(names), []
    read: set[str] = set()
    for node in reversed(graph.node):
        if not wanted.isdisjoint(node.output):
            nodes.append(node)
            wanted.update(names_read(node))
            read.update(names_read(node))
    return nodes[::-1], read


def _instead(name: str, model: onnx.ModelProto, computed: Collection[str]) -> str:
    if name in [*(i.name for i in model.graph.input), *(t.name for t in model.graph.initializer)]:
        return "it is an input or a weight: name a tensor that a node computes"
    outputs = next((list(node.output) for node in model.graph.node if name and node.name == name), None)
    if outputs:
        return f"that is a node: its output is {', '.join(outputs)}"
    close = difflib.get_close_matches(name, computed, n=3, cutoff=0.4)
    return f"no node computes it: {'close are ' + ', '.join(close) if close else 'the outputs are ' + _ends(model)}"


def _ends(model: onnx.ModelProto) -> str:
    return ", ".join(output.name for output in model.graph.output)
