"""Local functions written out where they are called.

ONNX's own inliner (1.23) loses the defaults of a function's attributes, and leaves a function of another opset a call.
Where a function is written for another opset than the model, it is written out if its operators mean the same in both:
ONNX Runtime takes it for one of the model's opset whatever it says.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import helper, version_converter

from optgraph.base.budget import Budget
from optgraph.base.errors import ModelError
from optgraph.onnx.scopes import Names, subgraphs

Function = tuple[str, str, str]  # domain, name, overload


def inlined(model: onnx.ModelProto, budget: Budget | None = None) -> onnx.ModelProto:
    """`model` without local functions; the model itself if it has none.

    Raises ModelError if that is over the budget or a function cannot be written out.
    """
    functions = {_key(f.domain, f.name, f.overload): f for f in model.functions}
    if budget is not None:
        _measure(model, functions, budget)
    return _Inliner(model, functions).model() if functions else model


def _key(domain: str, name: str, overload: str) -> Function:
    return "" if domain == "ai.onnx" else domain, name, overload


def _called(node: onnx.NodeProto) -> Function:
    return _key(node.domain, node.op_type, node.overload)


def _measure(model: onnx.ModelProto, functions: dict[Function, onnx.FunctionProto], budget: Budget) -> None:
    """Counts before it is done: thirty functions that each call the one before twice make a billion nodes."""
    sizes: dict[Function, tuple[int, int]] = {}
    calling: set[Function] = set()

    def measure(nodes: Sequence[onnx.NodeProto]) -> tuple[int, int]:
        """How many nodes these become, and how deep their calls go."""
        count = depth = 0
        for node in nodes:
            key = _called(node)
            inner = [called(key)] if key in functions else [(1, 0)]
            inner += [measure(graph.node) for graph in subgraphs(node)]
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


class _Inliner:
    def __init__(self, model: onnx.ModelProto, functions: dict[Function, onnx.FunctionProto]) -> None:
        self._source = model
        self._functions = functions
        self._names = Names(model.graph)
        self._nodes = Names(onnx.GraphProto())  # of nodes, which ONNX Runtime wants to differ
        for node in model.graph.node:
            self._nodes.fresh(node.name)
        self._opsets = {o.domain: o.version for o in model.opset_import}

    def model(self) -> onnx.ModelProto:
        source = self._source
        model = onnx.ModelProto(ir_version=source.ir_version)
        graph = model.graph
        graph.name = source.graph.name
        graph.input.extend(source.graph.input)
        graph.output.extend(source.graph.output)
        graph.value_info.extend(source.graph.value_info)
        graph.initializer.extend(source.graph.initializer)
        graph.sparse_initializer.extend(source.graph.sparse_initializer)
        graph.node.extend(self._written_out(source.graph.node))
        model.opset_import.extend(helper.make_opsetid(*opset) for opset in self._opsets.items())
        return model

    def _written_out(self, nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
        result: list[onnx.NodeProto] = []
        for node in nodes:
            function = self._functions.get(_called(node))
            if function is not None:
                result.extend(self._written_out(self._body(node, function)))
                continue
            if any(True for _ in subgraphs(node)):
                node = onnx.NodeProto.FromString(node.SerializeToString())
                for graph in subgraphs(node):
                    inner = self._written_out(graph.node)
                    del graph.node[:]
                    graph.node.extend(inner)
            result.append(node)
        return result

    def _body(self, call: onnx.NodeProto, function: onnx.FunctionProto) -> list[onnx.NodeProto]:
        """The nodes of one call, on the values that it is given."""
        if len(call.input) > len(function.input) or len(call.output) > len(function.output):
            raise ModelError(
                f"function '{function.name}' is called with {len(call.input)} inputs and {len(call.output)} outputs, "
                f"and has {len(function.input)} and {len(function.output)}",
                "export the model without functions",
            )
        label = call.name or call.output[0]
        names = dict.fromkeys(function.input, "") | dict(zip(function.input, call.input, strict=False))
        results = dict(zip(function.output, call.output, strict=False))
        passed = {formal: actual for formal, actual in results.items() if formal in names and actual}
        for name in (name for node in function.node for name in node.output if name):
            names[name] = results.get(name) or self._names.fresh(f"{label}/{name}")
        given = {a.name: a for a in function.attribute_proto} | {a.name: a for a in call.attribute}
        nodes = [self._names.node(node, names, given) for node in self._fitting(function)]
        for node in nodes:
            node.name = self._nodes.fresh(f"{label}/{node.name or node.op_type}")
        # An output that is an input of the function, handed through.
        nodes += [
            helper.make_node("Identity", [names[formal]], [actual], name=f"{label}/{formal}")
            for formal, actual in passed.items()
        ]
        return nodes

    def _fitting(self, function: onnx.FunctionProto) -> Sequence[onnx.NodeProto]:
        """The function's nodes. Raises ModelError if one means something else in the model's opset."""
        for opset in function.opset_import:
            domain = "" if opset.domain == "ai.onnx" else opset.domain
            version = self._opsets.setdefault(domain, opset.version)
            if domain or version == opset.version:
                continue
            for node in function.node:
                if not node.domain and not _same(node, opset.version, version):
                    raise ModelError(
                        f"function '{function.name}' is written for opset {opset.version}, where {node.op_type} is not "
                        f"what it is in the model's, {version}",
                        "export the model without functions",
                    )
        return function.node


def _same(node: onnx.NodeProto, opset: int, other: int) -> bool:
    """Whether an operator means in one opset what it means in another, as far as ONNX's converter knows."""
    try:
        since = {onnx.defs.get_schema(node.op_type, version, "").since_version for version in (opset, other)}
    except onnx.defs.SchemaError:
        return False
    if len(since) == 1:
        return True
    inputs, outputs = (
        [helper.make_empty_tensor_value_info(n) for n in names if n] for names in (node.input, node.output)
    )
    graph = helper.make_graph([node], "one", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    try:
        converted = version_converter.convert_version(model, other).graph
    except RuntimeError:
        return False
    return not converted.initializer and [n.SerializeToString() for n in converted.node] == [node.SerializeToString()]
