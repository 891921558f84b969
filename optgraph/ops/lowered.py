"""What lowerings share: the ends of a node as its kernel takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from optgraph.base.errors import NoKernelError
from optgraph.ir.op import Node
from optgraph.ir.quant import Quant
from optgraph.ir.values import Act
from optgraph.kernels.copy import AXES, COPY
from optgraph.kernels.frame.ends import Epilogue, Prologue
from optgraph.kernels.frame.fusion import Fusion
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.tile import nearest_planned
from optgraph.kernels.frame.view import View
from optgraph.kernels.resample import RESAMPLE, table
from optgraph.ops.products import rounds_to
from optgraph.ops.windowed import Windowed
from optgraph.plan.lowering import Lowering
from optgraph.plan.plan import Weight

if TYPE_CHECKING:
    import torch

FLOATS = {"float32", "float16", "bfloat16"}  # that kernels compute with
_NUMBERS = FLOATS | {"int64", "int32", "int16", "int8", "uint8"}  # that kernels move


class Ending(Protocol):
    """An operator with an epilogue."""

    @property
    def act(self) -> Act: ...
    @property
    def post(self) -> Act: ...
    @property
    def quants(self) -> tuple[Quant, ...]: ...
    @property
    def before_residual(self) -> tuple[Quant, ...]: ...


def before(context: Lowering, node: Node, act: Act) -> Prologue:
    """The prologue of a node with slots pre_scale and pre_shift."""
    quant = context.quant(node.inputs[0])
    return Prologue(context.vector(node.get("pre_scale")), context.vector(node.get("pre_shift")), act, quant)


def after(context: Lowering, node: Node, op: Ending) -> Epilogue:
    """The epilogue of a node with slots b and residual, and perhaps slope."""
    bias, residual = context.vector(node.get("b")), node.get("residual")
    slope = context.vector(node.get("slope")) if "slope" in node.op.slots else None
    added = context.dense(node, residual) if residual else None
    return Epilogue(
        bias,
        op.act,
        added,
        op.post,
        slope,
        rounds_to(context, node, op.quants),
        context.quant(residual),
        before_residual=op.before_residual[0] if op.before_residual else None,
    )


def fusion(
    context: Lowering, node: Node, op: Windowed, kernel: Kernel, hidden: int, rest: int = 0, copied: bool = False
) -> Fusion:
    """What `kernel` would do of the node in one launch. Batches that tiles are planned together for decide alike: a net
    compiled for them serves all sizes."""
    batch, channels, height, width = context.shape(node.inputs[0])
    return Fusion(
        kernel.name,
        (nearest_planned(batch), height, width, channels),
        hidden,
        context.shape(node.output)[1],
        op.window,
        affine=bool(node.get("pre_scale") or node.get("pre_shift")),
        residual=bool(node.get("residual")),
        dtype="tf32" if context.precision == "tf32" else context.storage,
        rest=rest,
        copied=copied,
    )


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
    """Emits what reads x along some axes at the places that tables tell, as `kernels/resample.py` has them: one launch
    for height and width of images, and one for each other axis.

    Raises NoKernelError for a rank over 4 and for numbers that no kernel moves.
    """
    require_numbers(out)
    if len(x.shape) > 4:
        raise NoKernelError(f"it selects along axes {sorted(tables)} of rank {len(x.shape)}")
    sides = {2, 3} if len(x.shape) == 4 else set()
    passes = [{axis} for axis in tables if axis not in sides] + [sides & tables.keys()] * bool(sides & tables.keys())
    for i, axes in enumerate(passes):
        shape = tuple(out.shape[a] if a in axes else size for a, size in enumerate(x.shape))
        made = out if i == len(passes) - 1 else context.scratch(node, shape, f"pass {i}", out.dtype)
        _resample(context, node, x, made, {axis: tables[axis] for axis in axes})
        x = made


def _resample(context: Lowering, node: Node, x: View, out: View, tables: Mapping[int, Weight]) -> None:
    rank = len(x.shape)
    if rank == 4 and tables.keys() <= {2, 3}:
        context.call(RESAMPLE, node, x=x.nhwc, out=out.nhwc, rows=tables.get(2), columns=tables.get(3))
        return
    ((axis, positions),) = tables.items()
    x, out, axis = with_rank_4(x), with_rank_4(out), axis + 4 - rank
    # What lies nearest in memory of the rest is taken for the channels.
    rest = sorted((a for a in range(4) if a != axis), key=lambda a: (out.shape[a] > 1, -out.strides[a]))
    order = (rest[0], axis, *rest[1:])
    context.call(RESAMPLE, node, x=x.permute(*order), out=out.permute(*order), rows=positions)
