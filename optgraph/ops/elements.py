"""Tensors of any rank as the elementwise kernel takes them: N×H×W×C, an axis of one element being broadcast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from optgraph.base.errors import NoKernelError
from optgraph.ir.op import Node
from optgraph.ir.values import Shape
from optgraph.kernels.frame.view import View, contiguous
from optgraph.plan.lowering import Lowering

_COLUMNS = 128  # how many neighbouring elements one row of a flat tensor is made of, at most

Strides = tuple[int, ...]


def elements(context: Lowering, node: Node, *values: str) -> tuple[list[Any], View]:
    """Views of `values`, packed weights for constants, and of the output of `node`, to which they broadcast as in
    numpy: each 4-D, and fit for an elementwise kernel.

    Raises NoKernelError where the axes of the operands and of the output are interleaved in too many ways.
    """
    out = context.write(node.output)
    rank = len(out.shape)
    if rank == 2 or (rank == 4 and (out.shape[1] != 1 or out.strides[3] != 1)):
        return by_channel(context, node, *values)
    return _Merged(context, node, values, out).taken()


def by_channel(context: Lowering, node: Node, *values: str) -> tuple[list[Any], View]:
    """The same of an output of rank 2 or 4, whose channels are the last axis, be there only one."""
    out = context.write(node.output)
    rank = len(out.shape)
    order = (0, 2, 3, 1) if rank == 4 else (0, 1)
    shapes = [_leading(context.graph.shape(value), rank) for value in values]
    given = [_in_order(context, value, shape, order) for value, shape in zip(values, shapes, strict=True)]
    return given, _image(out.permute(*order))


def _leading(shape: Shape, rank: int) -> Shape:
    return (1,) * (rank - len(shape)) + shape


def _in_order(context: Lowering, value: str, shape: Shape, order: Sequence[int]) -> Any:
    """An operand with its axes in the order of memory."""
    if value in context.graph.constants:
        sizes = tuple(int(d) for d in shape)
        spread = (0,) if len(order) == 2 else ()
        packed = tuple(sizes[axis] for axis in order)
        packed = (packed[0], 1, 1, packed[1]) if spread else packed
        return context.weight(arranged, value, dtype="float32", axes=sizes, order=tuple(order), shape=packed)
    view = context.read(value)
    missing = len(shape) - len(view.shape)
    whole = replace(view, shape=(1,) * missing + view.shape, strides=(0,) * missing + view.strides)
    return _image(whole.permute(*order))


def _image(view: View) -> View:
    """A view of [N, C] or [N, H, W, C] as the latter."""
    if len(view.shape) == 4:
        return view
    (n, c), (sn, sc) = view.shape, view.strides
    return replace(view, shape=(n, 1, 1, c), strides=(sn, sn, sn, sc))


def arranged(
    constant: torch.Tensor, axes: tuple[int, ...], order: tuple[int, ...], shape: tuple[int, ...]
) -> torch.Tensor:
    """A constant with its axes in the order of memory."""
    return constant.reshape(axes).permute(order).reshape(shape)


@dataclass
class _Axis:
    """Axes of the output that every operand runs through as one. strides: of each operand and of the output, 0 where it
    is broadcast."""

    size: int
    strides: list[int]


class _Merged:
    """Operands of an output of any rank: neighbouring axes become one where they can.

    The first axis, often the batch, stays by itself, so that a kernel for one batch serves others.
    """

    def __init__(self, context: Lowering, node: Node, values: Sequence[str], out: View) -> None:
        self._context, self._values, self._out = context, values, out
        shape = context.graph.shape(node.output)
        rank = len(shape)
        self._order = (0, 2, 3, 1) if rank == 4 else tuple(range(rank))
        self._shapes = [_leading(context.graph.shape(value), rank) for value in values]
        strides = [self._strides(value, shape) for value, shape in zip(values, self._shapes, strict=True)]
        strides.append(out.strides)
        self._axes: list[_Axis] = []
        for axis in self._order:
            if axis == self._order[0] or shape[axis] != 1:
                self._add(_Axis(out.shape[axis], [s[axis] for s in strides]))
        self._axes = self._spread(_Axis(1, [0] * len(strides)))

    def _strides(self, value: str, shape: Shape) -> Strides:
        """Of an operand, by axis of the output."""
        if value in self._context.graph.constants:
            strides = contiguous([int(d) for d in shape])
            ordered = contiguous([int(shape[axis]) for axis in self._order])
            strides = tuple(ordered[self._order.index(axis)] for axis in range(len(shape)))
        else:
            given = self._context.read(value).strides
            strides = (0,) * (len(shape) - len(given)) + given
        return tuple(0 if d == 1 else stride for d, stride in zip(shape, strides, strict=True))

    def _add(self, axis: _Axis) -> None:
        last = self._axes[-1] if len(self._axes) > 1 else None
        if last and all(a == b * axis.size for a, b in zip(last.strides, axis.strides, strict=True)):
            self._axes[-1] = _Axis(last.size * axis.size, axis.strides)
        else:
            self._axes.append(axis)

    def _spread(self, one: _Axis) -> list[_Axis]:
        """Four of them: N, H, W, C."""
        first, *rest = self._axes if len(self._order) > 1 else [one, *self._axes]
        if len(rest) > 3:
            raise NoKernelError(f"operands of {len(rest) + 1} axes that do not merge")
        if len(rest) == 1:  # a flat piece, in rows, of lengths that 8 divides where there are such
            (flat,) = rest
            lengths = (d for d in range(1, _COLUMNS + 1) if flat.size % d == 0)
            columns = max(lengths, key=lambda d: d * (1 if d % 8 else 4))
            rest = [_Axis(flat.size // columns, [s * columns for s in flat.strides]), _Axis(columns, flat.strides)]
        return [first, *[one] * (3 - len(rest)), *rest]

    def taken(self) -> tuple[list[Any], View]:
        out = self._view(self._out, -1)
        if not _dense(out):
            raise NoKernelError(f"its output, of strides {list(self._out.strides)}, is not in one piece")
        return [self._operand(i) for i in range(len(self._values))], out

    def _operand(self, i: int) -> Any:
        value = self._values[i]
        if value not in self._context.graph.constants:
            return self._view(self._context.read(value), i)
        axes = tuple(int(d) for d in self._shapes[i])
        shape = tuple(axis.size if axis.strides[i] else 1 for axis in self._axes)
        return self._context.weight(arranged, value, dtype="float32", axes=axes, order=self._order, shape=shape)

    def _view(self, view: View, i: int) -> View:
        sizes = tuple(axis.size if axis.strides[i] or i < 0 else 1 for axis in self._axes)
        return View(view.base, sizes, tuple(axis.strides[i] for axis in self._axes), view.dtype, view.offset)


def _dense(out: View) -> bool:
    """Whether a kernel can write there: rows of neighbouring elements, one after another at an even pitch."""
    (n, h, w, c), (sn, sh, sw, sc) = out.shape, out.strides
    row = sw if w > 1 else sh if h > 1 else sn
    return (c == 1 or sc == 1) and all(
        size == 1 or stride == row * rows for size, stride, rows in ((w, sw, 1), (h, sh, w), (n, sn, h * w))
    )
