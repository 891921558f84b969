"""Nodes and the values that they hand on, over a networkx.MultiDiGraph.

A node of the networkx graph is an operator; an edge is one use of a value by an operator, keyed by the destination
slot, with the value's name and its source slot as attributes. A value that no node computes has no edge.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import networkx as nx

from optgraph.base.errors import GraphError
from optgraph.ir.op import Node


class Wiring:
    """Which nodes there are, and who reads what of whom."""

    def __init__(self) -> None:
        self.nx: nx.MultiDiGraph[str] = nx.MultiDiGraph()
        self.changes = 0
        self._nodes: dict[str, Node] = {}  # networkx's own look-up is ten times slower
        self._producer: dict[str, tuple[str, int]] = {}
        self._uses: dict[str, dict[tuple[str, int], None]] = {}
        self._order: list[Node] | None = None

    def __len__(self) -> int:
        return len(self.nx)

    def __contains__(self, node: Node) -> bool:
        """Whether this very node, not a replacement of the same name, is in the graph."""
        return self._nodes.get(node.name) is node

    def node(self, name: str) -> Node:
        """The node of this name. Raises KeyError if there is none."""
        return self._nodes[name]

    def nodes(self) -> list[Node]:
        """All nodes in a topological order (a list of its own: rewriting while walking it is fine).

        Raises:
            GraphError: they form a cycle.
        """
        if self._order is None:
            try:
                self._order = [self.node(name) for name in nx.topological_sort(self.nx)]
            except nx.NetworkXUnfeasible:
                cycle = " -> ".join(str(edge[0]) for edge in nx.find_cycle(self.nx))
                raise GraphError(f"the graph has a cycle: {cycle}") from None
        return list(self._order)

    def producer(self, value: str) -> Node | None:
        """The node that computes `value`; None for an input or a constant."""
        found = self._producer.get(value)
        return self.node(found[0]) if found else None

    def users(self, value: str) -> list[tuple[Node, int]]:
        """Every (node, input slot) that reads `value`; a node that reads it twice is there twice."""
        return [(self.node(name), slot) for name, slot in self._uses.get(value, ())]

    def _insert(self, node: Node) -> None:
        self._put(node)
        for slot, value in enumerate(node.outputs):
            self._producer[value] = (node.name, slot)
        for slot, value in enumerate(node.inputs):
            self._link(node.name, slot, value)
        self._touch()

    def _put(self, node: Node) -> None:
        self._nodes[node.name] = node
        self.nx.add_node(node.name, node=node)

    def _link(self, name: str, slot: int, value: str) -> None:
        if not value:
            return
        self._uses.setdefault(value, {})[name, slot] = None
        if value in self._producer:
            source, source_slot = self._producer[value]
            self.nx.add_edge(source, name, key=slot, value=value, source_slot=source_slot)

    def _unlink(self, name: str, slot: int, value: str) -> None:
        if not value:
            return
        del self._uses[value][name, slot]
        if value in self._producer:
            self.nx.remove_edge(self._producer[value][0], name, key=slot)

    def _touch(self) -> None:
        self._order = None
        self.changes += 1

    def _drop(self, node: Node) -> None:
        """Of a node whose outputs nobody reads."""
        for slot, value in enumerate(node.inputs):
            self._unlink(node.name, slot, value)
        self.nx.remove_node(node.name)
        del self._nodes[node.name]
        for value in node.outputs:
            del self._producer[value]
            self._uses.pop(value, None)
        self._touch()

    def _check_wires(self) -> None:
        """Raises GraphError if edges and users are not what the nodes say, or if nodes form a cycle."""
        # Plain dicts: networkx's views cost more than all the rest.
        adjacency: dict[str, Mapping[str, Any]] = dict(self.nx.adjacency())
        edges = 0
        for node in self.nodes():
            for slot, value in enumerate(node.inputs):
                if not value:
                    continue
                if (node.name, slot) not in self._uses.get(value, ()):
                    raise GraphError(f"node '{node.name}' is not among the users of '{value}'")
                if value in self._producer:
                    source, source_slot = self._producer[value]
                    edge = adjacency[source].get(node.name, {}).get(slot)
                    if edge != {"value": value, "source_slot": source_slot}:
                        raise GraphError(f"edge '{source}' -> '{node.name}' slot {slot} does not carry '{value}'")
                    edges += 1
        present = sum(len(keys) for neighbours in adjacency.values() for keys in neighbours.values())
        if edges != present:
            raise GraphError(f"{present} edges where the nodes use {edges} values")
