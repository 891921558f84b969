"""What lowerings share: the ends of a node as its kernel takes them, and views as kernels see them."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from optgraph.base.errors import NoKernelError
from optgraph.ir.op import Node
from optgraph.ir.values import Act
from optgraph.kernels.frame.ends import Epilogue, Prologue
from optgraph.kernels.frame.view import View
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


def rows(view: View) -> View:
    """An N×C×H×W or N×C view as N×H×W×C."""
    if len(view.shape) == 4:
        return view.nhwc
    if len(view.shape) != 2:
        raise NoKernelError(f"elementwise on rank {len(view.shape)}")
    (n, c), (sn, sc) = view.shape, view.strides
    return replace(view, shape=(n, 1, 1, c), strides=(sn, sn, sn, sc))
