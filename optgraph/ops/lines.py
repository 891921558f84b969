"""Tensors of any rank as kernels take them that reduce an axis: N×H×W lines of C elements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optgraph.base.errors import NoKernelError
from optgraph.ir.values import Shape
from optgraph.kernels.frame.view import View


@dataclass(frozen=True)
class _Axis:
    size: int
    x: int
    out: int


def _merged(axes: Sequence[_Axis]) -> list[_Axis]:
    """Neighbours that both tensors run through as one become one; in the order of x's memory."""
    found: list[_Axis] = []
    for axis in sorted(axes, key=lambda axis: -axis.x):
        last = found[-1] if found else None
        if last and last.x == axis.x * axis.size and last.out == axis.out * axis.size:
            found[-1] = _Axis(last.size * axis.size, axis.x, axis.out)
        else:
            found.append(axis)
    return found


def groups(shape: Shape, x: View, axes: Sequence[int]) -> list[list[int]]:
    """The axes in groups of those that lie in `x` as one."""
    found: list[list[int]] = []
    for axis in sorted((a for a in axes if shape[a] != 1), key=lambda a: -x.strides[a]):
        last = found[-1][-1] if found else None
        if last is not None and x.strides[last] == x.strides[axis] * x.shape[axis]:
            found[-1].append(axis)
        else:
            found.append([axis])
    return found or [list(axes[:1])]


def lines(shape: Shape, x: View, out: View, axes: Sequence[int], whole: bool) -> tuple[View, View]:
    """x as [N, H, W, C], and out as [N, H, W, 1]: C being the `axes` of x, one of `groups`.

    whole: C is one axis, and out has it too.
    shape: of x in the graph, which tells axes of one element from a batch of one. out: of x's rank.
    Raises NoKernelError where the other axes do not merge into three.
    """

    def axis(a: int) -> _Axis:
        return _Axis(x.shape[a], x.strides[a], out.strides[a])

    kept = [a for a in range(len(shape)) if a not in axes and shape[a] != 1]
    # The batch stays by itself, so that a kernel for one batch serves others.
    batch = [axis(a) for a in kept if a == 0]
    rest = _merged([axis(a) for a in kept if a != 0])
    if len(rest) > 2:
        batch, rest = [], _merged([axis(a) for a in kept])
    if len(batch) + len(rest) > 3:
        raise NoKernelError(f"lines of {len(batch) + len(rest)} axes that do not merge")
    one = _Axis(1, 0, 0)
    placed = [*(batch or [one]), *[one] * (3 - max(len(batch), 1) - len(rest)), *rest]
    if len(rest) == 3:
        placed = rest
    placed.append(axis(axes[0]) if whole else _line(shape, x, axes))
    sizes = tuple(a.size for a in placed)
    made = sizes if whole else (*sizes[:3], 1)
    return (
        View(x.base, sizes, tuple(a.x for a in placed), x.dtype, x.offset),
        View(out.base, made, tuple(a.out for a in placed), out.dtype, out.offset),
    )


def _line(shape: Shape, x: View, axes: Sequence[int]) -> _Axis:
    """What is reduced, of which nothing is written."""
    merged = _merged([_Axis(x.shape[a], x.strides[a], x.strides[a]) for a in axes if shape[a] != 1])
    (line,) = merged or [_Axis(1, 1, 1)]
    return _Axis(line.size, line.x, 1)
