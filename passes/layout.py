"""Transposes move down through the operators below them, meet, and cancel.

    f(transpose(x, p), ...)             ->  transpose(g(x, ...), q)                (`permute.py`)
    f(transpose(x, p), c)               ->  transpose(g(x, transpose(c, p⁻¹)), p)  for a constant c
    transpose(transpose(x, p), q)       ->  transpose(x, p∘q), nothing where p∘q is the identity
    transpose of axes of size 1 only    ->  reshape
    transpose(f(x), p) at a model input ->  g(transpose(x, p))
    gemm(flatten(transpose(x, p)), w)   ->  gemm(flatten(x), w with its columns reordered)

Legal: within one region (the transposes and operators that must move together) no more transposes are left than there
were. All decisions are taken before anything is moved: one sweep finds for every value v a pair (u, p) with
v = transpose(u, p), where u can be computed without any transpose of the region, and counts the values that somebody
needs as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from optgraph.graph import Graph, Node
from optgraph.ops import Gemm, Reshape, Transpose
from optgraph.passes.permute import (
    Perm,
    compose,
    identity,
    inverse,
    moves_units_only,
    permuted,
    permuted_constant,
    permuted_shape,
)
from optgraph.passes.rewrite import Outcome, Refusal, Rule, sweep


@dataclass
class _Region:
    """Values tied together, because the operators between them move or stay as one. Merged regions form a chain."""

    into: _Region | None = None
    transposes: int = 0
    needed: dict[str, None] = field(default_factory=dict)  # values read as they are: each costs a transpose

    def root(self) -> _Region:
        region = self
        while region.into is not None:
            region.into = region.into.into or region.into
            region = region.into
        return region

    def join(self, other: _Region) -> _Region:
        a, b = self.root(), other.root()
        if a is not b:
            b.into = a
            a.transposes += b.transposes
            a.needed |= b.needed
        return a

    @property
    def gains(self) -> bool:
        region = self.root()
        return len(region.needed) <= region.transposes


@dataclass(frozen=True)
class _View:
    """A value that is transpose(u, perm) of a u not computed yet."""

    perm: Perm
    region: _Region


class _Plan:
    """What moves: found in one sweep over an unchanged graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.views: dict[str, _View] = {}
        self.moves: list[tuple[Node, _Region]] = []
        for node in graph.nodes():
            if isinstance(node.op, Transpose):
                self._transpose(node, node.op.perm)
            else:
                self._operator(node)
        for value in graph.outputs.values():
            self._need(value)

    def _need(self, value: str) -> None:
        view = self.views.get(value)
        if view is not None and not moves_units_only(self.graph.shape(value), inverse(view.perm)):
            view.region.root().needed[value] = None

    def _transpose(self, node: Node, perm: Perm) -> None:
        above = self.views.get(node.inputs[0])
        region = above.region.root() if above else _Region()
        region.transposes += 1
        self._show(node, compose(above.perm, perm) if above else perm, region)

    def _show(self, node: Node, perm: Perm, region: _Region) -> None:
        self.moves.append((node, region))
        if not identity(perm):
            self.views.update((value, _View(perm, region)) for value in node.outputs)

    def _operator(self, node: Node) -> None:
        above = [self.views[value] for value in node.inputs if value in self.views]
        if not above:
            return
        perm = above[0].perm
        if flattens(self.graph, node, perm):
            self._show(node, (), above[0].region)
            return
        moved = permuted(node.op, perm)
        if moved is None or not all(self._follows(value, perm) for value in node.inputs):
            for value in node.inputs:
                self._need(value)
            return
        region = above[0].region
        for view in above[1:]:
            region = region.join(view.region)
        self._show(node, moved[1], region)

    def _follows(self, value: str, perm: Perm) -> bool:
        """Whether the transpose that undoes `perm` costs nothing on this operand."""
        if value in self.views:
            return self.views[value].perm == perm
        array = self.graph.constant(value)
        if array is not None:
            return array.ndim <= len(perm)
        shape = self.graph.shape(value)
        return len(shape) == len(perm) and moves_units_only(shape, inverse(perm))


def flattens(graph: Graph, node: Node, perm: Perm) -> bool:
    """Whether a Reshape of transpose(u, perm) is one of u: where the transpose only moved axes of size 1."""
    return isinstance(node.op, Reshape) and moves_units_only(graph.shape(node.inputs[0]), inverse(perm))


class _Mover:
    """Carries out a plan: untransposed twins of the operators, then transposes where a value is still read."""

    def __init__(self, graph: Graph, plan: _Plan) -> None:
        self.graph = graph
        self.base: dict[str, str] = {}  # value -> the u of its view
        self.views = plan.views
        for node, region in plan.moves:
            if region.gains:
                self._move(node)
        for value in self.base:
            view = self.views.get(value)
            if view is not None:
                graph.rewire(value, self._transposed(value, view.perm))
        graph.prune()

    def _transposed(self, value: str, perm: Perm) -> str:
        base = self.base[value]
        if moves_units_only(self.graph.shape(base), perm):
            return self.graph.add(Reshape(shape=self.graph.shape(value)), [base], name="reshape").output
        return self.graph.add(Transpose(perm=perm), [base], name="transpose").output

    def _move(self, node: Node) -> None:
        graph, source = self.graph, node.inputs[0]
        if isinstance(node.op, Transpose):
            bases: tuple[str, ...] = (self.base.get(source, source),)
        elif isinstance(node.op, Reshape):
            bases = graph.add(node.op, [self.base[source]], name=node.name, origin=node.origin).outputs
        else:
            perm = next(self.views[value].perm for value in node.inputs if value in self.base)
            found = permuted(node.op, perm)
            assert found is not None
            inputs = [self._operand(value, perm) for value in node.inputs]
            bases = graph.add(found[0], inputs, name=node.name, origin=node.origin).outputs
        for value, base in zip(node.outputs, bases, strict=True):
            if value in self.views:
                self.base[value] = base
            else:
                graph.rewire(value, base)

    def _operand(self, value: str, perm: Perm) -> str:
        """The u with transpose(u, perm) = value."""
        if value in self.base:
            return self.base[value]
        array = self.graph.constant(value)
        if array is not None:
            other = permuted_constant(array, inverse(perm))
            return value if other is array else self.graph.add_constant(other, value)
        shape = permuted_shape(self.graph.shape(value), inverse(perm))
        return self.graph.add(Reshape(shape=shape), [value], name="reshape").output
