"""What lowerings share: the ends of a node as its kernel takes them."""

from __future__ import annotations

from typing import Protocol

from optgraph.ir.op import Node
from optgraph.ir.values import Act
from optgraph.kernels.frame.ends import Epilogue, Prologue
from optgraph.plan.lowering import Lowering


class Ending(Protocol):
    """An operator with an epilogue."""

    @property
    def act(self) -> Act: ...
    @property
    def post(self) -> Act: ...


def before(context: Lowering, node: Node, act: Act) -> Prologue:
    """The prologue of a node with slots pre_scale and pre_shift."""
    return Prologue(context.vector(node.get("pre_scale")), context.vector(node.get("pre_shift")), act)


def after(context: Lowering, node: Node, op: Ending) -> Epilogue:
    """The epilogue of a node with slots b and residual."""
    bias, residual = context.vector(node.get("b")), node.get("residual")
    return Epilogue(bias, op.act, context.dense(node, residual) if residual else None, op.post)
