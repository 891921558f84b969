"""Transposes move down through the operators below them, meet, and cancel.

    f(transpose(x, p), ...)          ->  transpose(g(x, ...), q)                (`permute.py`)
    f(transpose(x, p), c)            ->  transpose(g(x, transpose(c, p⁻¹)), p)  for a constant c
    transpose(transpose(x, p), q)    ->  transpose(x, p∘q), nothing where p∘q is the identity
    a transpose of axes of size 1    ->  a reshape

Legal: within one region (the transposes and operators that must move together) no more transposes are left than there
were. All decisions are taken before anything is moved: one sweep finds for every value v a pair (u, p) with
v = transpose(u, p), where u can be computed without any transpose of the region, and counts the values that somebody
needs as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

from optgraph.ir.graph import Graph, Node, Source
from optgraph.ops import Reshape, Transpose
from optgraph.passes.rewrite import Outcome, Refusal
from optgraph.passes.simplify.permute import (
    Perm,
    compose,
    identity,
    inverse,
    moves_units_only,
    permuted,
    permuted_constant,
    permuted_shape,
)


@dataclass
class _Region:
    """Values tied together, because the operators between them move or stay as one."""

    into: _Region | None = None  # the region this one became part of
    transposes: int = 0
    operators: int = 0
    needed: int = 0  # transposes that would be left

    def root(self) -> _Region:
        region = self
        while region.into is not None:
            region.into = region.into.into or region.into
            region = region.into
        return region

    def join(self, other: _Region) -> None:
        a, b = self.root(), other.root()
        if a is not b:
            b.into = a
            a.transposes += b.transposes
            a.operators += b.operators
            a.needed += b.needed

    @property
    def gains(self) -> bool:
        return self.needed < self.transposes or (self.needed == self.transposes and self.operators > 0)


@dataclass(frozen=True)
class _View:
    """That a value is transpose(u, perm) of a u not computed yet."""

    perm: Perm
    region: _Region


class _Plan:
    """What would move, found in one sweep over an unchanged graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.views: dict[str, _View] = {}
        self.moves: list[tuple[Node, _Region]] = []
        self.needed: dict[str, None] = {}  # views that something which stays reads
        for node in graph.nodes():
            if isinstance(node.op, Transpose):
                self._transpose(node, node.op.perm)
            else:
                self._operator(node)
        for value in graph.outputs.values():
            self._need(value)

    def _transpose(self, node: Node, perm: Perm) -> None:
        above = self.views.get(node.inputs[0])
        region = above.region.root() if above else _Region()
        region.transposes += 1
        self._moves(node, compose(above.perm, perm) if above else perm, region)

    def _operator(self, node: Node) -> None:
        above = [self.views[value] for value in node.inputs if value in self.views]
        if not above:
            return
        perm, region = above[0].perm, above[0].region.root()
        if isinstance(node.op, Reshape) and moves_units_only(self.graph.shape(node.inputs[0]), inverse(perm)):
            self._moves(node, (), region)
            return
        moved = permuted(node.op, perm)
        if moved is None or not all(self._follows(value, perm) for value in node.inputs):
            for value in node.inputs:
                self._need(value)
            return
        for view in above[1:]:
            region.join(view.region)
        region.root().operators += 1
        self._moves(node, moved[1], region)

    def _moves(self, node: Node, perm: Perm, region: _Region) -> None:
        self.moves.append((node, region))
        if not identity(perm):
            self.views.update((value, _View(perm, region)) for value in node.outputs)

    def _follows(self, value: str, perm: Perm) -> bool:
        """Whether the transpose that undoes `perm` costs nothing on this operand."""
        if value in self.views:
            return self.views[value].perm == perm
        array = self.graph.constant(value)
        if array is not None:
            return array.ndim <= len(perm)
        shape = self.graph.shape(value)
        return len(shape) == len(perm) and moves_units_only(shape, inverse(perm))

    def _need(self, value: str) -> None:
        view = self.views.get(value)
        if view is not None and value not in self.needed:
            self.needed[value] = None
            if not moves_units_only(self.graph.shape(value), inverse(view.perm)):
                view.region.root().needed += 1


class _Mover:
    """Carries out a plan: untransposed twins of the operators, and a transpose where a view is needed."""

    def __init__(self, graph: Graph, plan: _Plan) -> None:
        self.graph = graph
        self.views = plan.views
        self.base: dict[str, str] = {}  # value that moved -> its u (the value itself under a new name, if no view)
        self.turned: dict[tuple[str, Perm], str] = {}  # transposed constants, which operators share
        self.rewrites = 0
        for node, region in plan.moves:
            if region.root().gains:
                self._move(node)
                self.rewrites += 1
        for value in plan.needed:
            if value in self.base:
                graph.rewire(value, self._transposed(value))
        graph.prune()

    def _move(self, node: Node) -> None:
        source = node.inputs[0]
        if isinstance(node.op, Transpose):
            bases: tuple[str, ...] = (self.base.get(source, source),)
        else:
            bases = self._twin(node).outputs
        for value, base in zip(node.outputs, bases, strict=True):
            self.base[value] = base
            if value not in self.views:
                self.graph.rewire(value, base)
            elif value in self.graph.sources:
                known, back = self.graph.sources[value], inverse(self.views[value].perm)
                perm = compose(known.perm, back) if known.perm else back
                self.graph.sources.setdefault(base, Source(known.name, perm))

    def _twin(self, node: Node) -> Node:
        if isinstance(node.op, Reshape):
            return self.graph.add(node.op, [self.base[node.inputs[0]]], name=node.name, origin=node.origin)
        perm = next(self.views[value].perm for value in node.inputs if value in self.views)
        moved = permuted(node.op, perm)
        assert moved is not None
        inputs = [self._operand(value, perm) for value in node.inputs]
        return self.graph.add(moved[0], inputs, name=node.name, origin=node.origin)

    def _operand(self, value: str, perm: Perm) -> str:
        """The u with transpose(u, perm) = value."""
        in_views, value = value in self.views, self.base.get(value, value)
        if in_views:
            return value
        back = inverse(perm)
        array = self.graph.constant(value)
        if array is None:
            shape = permuted_shape(self.graph.shape(value), back)
            return self.graph.add(Reshape(shape=shape), [value]).output
        if (value, back) not in self.turned:
            turned = permuted_constant(array, back)
            self.turned[value, back] = value if turned is array else self.graph.add_constant(turned, value)
        return self.turned[value, back]

    def _transposed(self, value: str) -> str:
        base, perm = self.base[value], self.views[value].perm
        units = moves_units_only(self.graph.shape(base), perm)
        op = Reshape(shape=self.graph.shape(value)) if units else Transpose(perm=perm)
        return self.graph.add(op, [base]).output


def run(graph: Graph) -> Outcome:
    plan = _Plan(graph)
    outcome = Outcome(_Mover(graph, plan).rewrites)
    for value in plan.needed:
        region = plan.views[value].region.root()
        if not region.gains and region.operators:
            reason = f"{region.needed} transposes would be left of {region.transposes}"
            producer = graph.producer(value)
            outcome.refusals.append(Refusal("move transposes", producer.name if producer else value, reason))
    return outcome
