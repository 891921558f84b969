"""An ONNX model as import wants it: local functions inlined, and cut off at the tensors asked for.

It is cut before it is imported, so that what lies behind the cut need not be supported.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence

import onnx
import onnx.inliner

from optgraph.base.budget import Budget
from optgraph.base.errors import InputError, ModelError

Function = tuple[str, str]  # domain, name


def inlined(model: onnx.ModelProto, budget: Budget) -> onnx.ModelProto:
    """`model` with its local functions inlined. Raises ModelError if that is over budget."""
    functions = {(f.domain, f.name): f for f in model.functions}
    sizes: dict[Function, tuple[int, int]] = {}
    calling: set[Function] = set()

    # Counted before it is done: thirty functions that each call the one before twice make a billion nodes.
    def measure(nodes: Sequence[onnx.NodeProto]) -> tuple[int, int]:
        """How many nodes these become, and how deep their calls go."""
        count = depth = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            inner = [called(key)] if key in functions else [(1, 0)]
            inner += [measure(g.node) for a in node.attribute for g in (a.g, *a.graphs) if g.node]
            count += sum(c for c, _ in inner)
            depth = max(depth, *(d for _, d in inner))
        return count, depth

    def called(key: Function) -> tuple[int, int]:
        if key not in sizes:
            if key in calling:
                raise ModelError(f"the model's function '{key[1]}' calls itself", "export the model without functions")
            calling.add(key)
            budget.check("nesting", len(calling), f"functions call each other {len(calling)} deep, or deeper")
            count, depth = measure(functions[key].node)
            sizes[key] = count, depth + 1
            calling.remove(key)
        return sizes[key]

    count, depth = measure(model.graph.node)
    budget.check("nesting", depth, f"functions call each other {depth} deep")
    budget.check("nodes", count, f"the model has {count} nodes")
    if not functions:
        return model
    try:
        return onnx.inliner.inline_local_functions(model)
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"its functions cannot be inlined: {str(error).splitlines()[0]}") from None


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
            wanted.update(node.input)
            read.update(node.input)
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
