"""What every pass is made of: rules with three visible steps, and the sweep that applies them.

A rule finds a place (`match`), asks whether the rewrite is legal there (`check`: None, or the reason why not) and
does it (`rewrite`). A pass is a function from a Graph to an Outcome; most are one sweep over a few rules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from optgraph.ir.graph import Graph, Node

M = TypeVar("M")


@dataclass(frozen=True)
class Refusal:
    """A place where a rule matched and was not legal."""

    rule: str
    node: str
    reason: str


@dataclass
class Outcome:
    """What a pass did: how many rewrites, and which it refused."""

    rewrites: int = 0
    refusals: list[Refusal] = field(default_factory=list)

    def __iadd__(self, other: Outcome) -> Outcome:
        self.rewrites += other.rewrites
        self.refusals += other.refusals
        return self


@dataclass(frozen=True)
class Rule(Generic[M]):
    """match(graph, node) -> what it found, or None; check(graph, found) -> why it may not, or None;
    rewrite(graph, found) changes the graph."""

    name: str
    match: Callable[[Graph, Node], M | None]
    check: Callable[[Graph, M], str | None]
    rewrite: Callable[[Graph, M], None]


def sweep(graph: Graph, *rules: Rule[Any], backward: bool = False) -> Outcome:
    """Applies the first rule that fits at each node, once over the graph in topological (or reverse) order.

    Nodes that a rewrite adds are not visited; linear in the size of the graph.
    """
    outcome = Outcome()
    names = [node.name for node in graph.nodes()]
    for name in reversed(names) if backward else names:
        for rule in rules:
            if name not in graph.nx:
                break
            found = rule.match(graph, graph.node(name))
            if found is None:
                continue
            reason = rule.check(graph, found)
            if reason is not None:
                outcome.refusals.append(Refusal(rule.name, name, reason))
                continue
            rule.rewrite(graph, found)
            outcome.rewrites += 1
            break
    return outcome


def needed_elsewhere(graph: Graph, end: Node, inner: Sequence[Node]) -> str | None:
    """Why `end` cannot absorb the nodes before it: something else reads one of them. None if nothing does."""
    within = {end.name, *(node.name for node in inner)}
    for node in inner:
        users = {user.name for user, _ in graph.users(node.output)}
        if graph.is_output(node.output) or not users <= within:
            return f"the output of '{node.name}' is also needed elsewhere"
    return None


def remove_unread(graph: Graph, nodes: Sequence[Node]) -> None:
    """Removes those that nothing reads any more, `nodes` being in order from the end up."""
    for node in nodes:
        if node.name in graph.nx and not graph.users(node.output):
            graph.remove(graph.node(node.name))
