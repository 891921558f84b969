"""Names in a model: what a node reads, subgraphs included, and copies of nodes and subgraphs under other names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx
from onnx import AttributeProto

Attributes = Mapping[str, AttributeProto]


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs among its attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def names_read(node: onnx.NodeProto) -> Iterator[str]:
    """Its inputs, and all that its subgraphs read, whether of their own values or of those around them."""
    yield from node.input
    for graph in subgraphs(node):
        yield from (output.name for output in graph.output)
        for inner in graph.node:
            yield from names_read(inner)


def names_defined(graph: onnx.GraphProto) -> Iterator[str]:
    """Its inputs, weights and computed values, in the order of the file; not those of its nodes' subgraphs."""
    yield from (value.name for value in graph.input)
    yield from (tensor.name for tensor in graph.initializer)
    for node in graph.node:
        yield from filter(None, node.output)


class Names:
    """The names of a whole model, so that a new one meets none of them."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._taken: set[str] = set()
        self._take(graph)

    def _take(self, graph: onnx.GraphProto) -> None:
        self._taken.update(names_defined(graph))
        for node in graph.node:
            self._taken.update(names_read(node))
            for inner in subgraphs(node):
                self._take(inner)

    def fresh(self, hint: str) -> str:
        """A name like `hint` that nothing has."""
        name, serial = hint, 0
        while name in self._taken:
            serial += 1
            name = f"{hint}.{serial}"
        self._taken.add(name)
        return name

    def node(self, node: onnx.NodeProto, names: Mapping[str, str], given: Attributes | None = None) -> onnx.NodeProto:
        """A copy that reads and computes the values by their new `names`, inside its subgraphs, too.

        given: what an attribute that refers to one of a function's stands for; one that is not given is left out.
        None outside functions.
        """
        copy = onnx.NodeProto(name=node.name, op_type=node.op_type, domain=node.domain)
        if node.overload:
            copy.overload = node.overload
        copy.input.extend(names.get(name, name) for name in node.input)
        copy.output.extend(names.get(name, name) for name in node.output)
        for attribute in node.attribute:
            source: AttributeProto | None = attribute
            if attribute.ref_attr_name and given is not None:
                source = given.get(attribute.ref_attr_name)
            if source is None:
                continue
            added = copy.attribute.add()
            added.CopyFrom(source)
            added.name = attribute.name
            if added.HasField("g"):
                added.g.CopyFrom(self.graph(source.g, names, given))
            for i, graph in enumerate(source.graphs):
                added.graphs[i].CopyFrom(self.graph(graph, names, given))
        return copy

    def graph(
        self,
        graph: onnx.GraphProto,
        names: Mapping[str, str],
        given: Attributes | None = None,
        own: Mapping[str, str] | None = None,
    ) -> onnx.GraphProto:
        """A copy of a subgraph: it reads the values around it by their new `names`, and its own have fresh ones, but
        for those in `own`."""
        inner = dict(names)
        for name in names_defined(graph):
            inner[name] = (own or {}).get(name) or self.fresh(name)
        copy = onnx.GraphProto(name=graph.name)
        copy.sparse_initializer.extend(graph.sparse_initializer)
        for old, new in ((graph.input, copy.input), (graph.output, copy.output)):
            for value in old:
                new.add().CopyFrom(value)
                new[-1].name = inner.get(value.name, value.name)
        for tensor in graph.initializer:
            copy.initializer.add().CopyFrom(tensor)
            copy.initializer[-1].name = inner[tensor.name]
        copy.node.extend(self.node(node, inner, given) for node in graph.node)
        return copy
