"""What lowerings share: the ends of a node as its kernel takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from optgraph.base.errors import NoKernelError
from optgraph.ir.op import Node
from optgraph.ir.values import Act
from optgraph.kernels.copy import AXES, COPY
from optgraph.kernels.frame.ends import Epilogue, Prologue
from optgraph.kernels.frame.view import View
from optgraph.kernels.resample import RESAMPLE, table
from optgraph.plan.lowering import Lowering
from optgraph.plan.plan import Weight

if TYPE_CHECKING:
    import torch

_NUMBERS = {"float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8"}  # that kernels move


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


def copied(context: Lowering, node: Node, x: View | Weight, out: View) -> None:
    """Emits the copy of x, which may broadcast, to `out`. Raises NoKernelError for numbers that no kernel moves."""
    require_numbers(out)
    if len(out.shape) > AXES:
        raise NoKernelError(f"it moves elements of rank {len(out.shape)}")
    if out.bytes:
        context.call(COPY, node, x=x, out=out)


def require_numbers(view: View) -> None:
    if view.dtype not in _NUMBERS:
        raise NoKernelError(f"no kernel moves numbers of type {view.dtype}")


def with_rank_4(view: View) -> View:
    """A view of fewer axes with others of size 1 before them."""
    ones = 4 - len(view.shape)
    return replace(view, shape=(1,) * ones + view.shape, strides=(view.strides[0],) * ones + view.strides)


def picked(context: Lowering, node: Node, x: View, out: View, positions: Mapping[int, Sequence[int]]) -> None:
    """Emits the selection of positions along some axes. Raises NoKernelError as `resampled` does."""
    tables = {axis: context.weight(_positions, dtype="float32", at=tuple(at)) for axis, at in positions.items()}
    resampled(context, node, x, out, tables)


def _positions(at: tuple[int, ...]) -> torch.Tensor:
    import torch

    index = torch.tensor(at)[:, None]
    return table(index, torch.ones_like(index))


def resampled(context: Lowering, node: Node, x: View, out: View, tables: Mapping[int, Weight]) -> None:
    """Emits the launch that reads x along some axes at the places that tables tell, as `kernels/resample.py` has them.

    Raises NoKernelError for other axes than one, or height and width of images, and for numbers that no kernel moves.
    """
    require_numbers(out)
    rank = len(x.shape)
    if rank == 4 and tables.keys() <= {2, 3}:
        context.call(RESAMPLE, node, x=x.nhwc, out=out.nhwc, rows=tables.get(2), columns=tables.get(3))
        return
    if rank > 4 or len(tables) != 1:
        raise NoKernelError(f"it selects along axes {sorted(tables)} of rank {rank}")
    ((axis, positions),) = tables.items()
    x, out, axis = with_rank_4(x), with_rank_4(out), axis + 4 - rank
    # What lies nearest in memory of the rest is taken for the channels.
    rest = sorted((a for a in range(4) if a != axis), key=lambda a: (out.shape[a] > 1, -out.strides[a]))
    order = (rest[0], axis, *rest[1:])
    context.call(RESAMPLE, node, x=x.permute(*order), out=out.permute(*order), rows=positions)
