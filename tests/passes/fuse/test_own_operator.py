"""What an operator of one's own says of itself is enough for the fuse passes to take it as they take ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from optgraph.ir.graph import Graph
from optgraph.ir.op import Inputs, Node, Op, Outputs
from optgraph.ir.values import IDENTITY, RELU, Act, Value
from optgraph.ops.windowed import Windowed
from optgraph.passes.fuse import epilogue, place_concat, prologue
from tests.support.networks import Builder, difference, of_kind

SIGMOID = Act("sigmoid")


@dataclass(frozen=True, kw_only=True)
class Halve(Op):
    """after(before(x) / 2)."""

    prologue_field = "before"
    writes_channels = True
    before: Act = IDENTITY
    after: Act = IDENTITY

    def epilogue_field(self, node: Node) -> str:
        return "after"

    def compute(self, inputs: Inputs) -> Outputs:
        (x,) = self.per_slot(inputs)
        return (self.after.apply(self.before.apply(x) / 2),)


@dataclass(frozen=True, kw_only=True)
class Corner(Windowed):
    """The first pixel of each window."""

    slots = ("x", "residual")
    takes_residual = 1

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        assert inputs[0] is not None
        return self.infer_image(inputs, inputs[0].shape[1])

    def compute(self, inputs: Inputs) -> Outputs:
        x, residual = self.per_slot(inputs)
        (kh, kw), (sh, sw) = self.kernel, self.stride
        return self.compute_epilogue(x[:, :, : x.shape[2] - kh + 1 : sh, : x.shape[3] - kw + 1 : sw], residual)


def applied(run, graph: Graph) -> Graph:
    after = graph.copy()
    assert run(after).rewrites
    assert difference(graph, after) < 1e-12
    return after


def test_its_activations() -> None:
    b = Builder()
    y = b.graph.add(Halve(), [b.act(b.x, SIGMOID)]).output
    (node,) = applied(epilogue.run, applied(prologue.run, b.done(b.act(y)))).nodes()
    assert node.op == Halve(before=SIGMOID, after=RELU)


def test_an_affine_map_is_not_for_one_without_slots_for_it() -> None:
    b = Builder()
    graph = b.done(b.graph.add(Halve(), [b.affine(b.x)], name="mine").output)
    (refusal,) = prologue.run(graph).refusals
    assert refusal.reason == "'mine', a halve, takes an activation only"


def test_its_place_in_a_concatenation() -> None:
    b = Builder()
    after = applied(place_concat.run, b.done(b.concat(b.graph.add(Halve(), [b.x]).output, b.x)))
    assert [node.op.in_place for node in of_kind(after, "Concat")] == [(True, False)]


@pytest.mark.parametrize("swap", [False, True])
def test_its_residual(swap: bool) -> None:
    b = Builder()
    y, skip = b.graph.add(Corner(kernel=(3, 3), stride=(2, 2)), [b.x]).output, b.conv(b.x, 12, stride=2)
    skip = b.graph.add(Corner(kernel=(2, 2)), [skip]).output
    after = applied(epilogue.run, b.done(b.act(b.add(skip, y) if swap else b.add(y, skip))))
    assert [node.op.post for node in of_kind(after, "Corner") if node.get("residual")] == [RELU]
