"""Axes reduced to a number, searched, or added up step by step."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from optgraph.ops.standard.form import Form, Function, axes_of

# Of a tensor, the axes and keepdims.
Reduction = Callable[[Tensor, list[int], bool], Tensor]


def _sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.sum(axes, keep, dtype=x.dtype)


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        return x.mean(axes, keep)
    return torch.div(x.sum(axes, keep), math.prod(x.shape[a] for a in axes), rounding_mode="trunc").to(x.dtype)


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in reversed(axes):
        x = x.prod(axis, keep, dtype=x.dtype)
    return x


def _extremum(function: Callable[..., Tensor], sign: float) -> Reduction:
    def reduced(x: Tensor, axes: list[int], keep: bool) -> Tensor:
        if all(x.shape[a] for a in axes):
            return function(x, axes, keep)
        none: float | bool = sign * math.inf  # of no elements
        if x.dtype == torch.bool:
            none = sign > 0
        elif not x.is_floating_point():
            limits = torch.iinfo(x.dtype)
            none = limits.max if sign > 0 else limits.min
        return torch.full_like(x.sum(axes, keep, dtype=x.dtype), none)

    return reduced


def _in_double(function: Reduction) -> Reduction:
    """Integers computed as doubles and rounded towards zero."""

    def reduced(x: Tensor, axes: list[int], keep: bool) -> Tensor:
        return function(x, axes, keep) if x.is_floating_point() else function(x.double(), axes, keep).to(x.dtype)

    return reduced


def _reduction(function: Reduction) -> Function:
    """`axes` was an attribute until opset 18, of ReduceSum until 13."""

    def reduced(form: Form, x: Tensor, operand: Tensor | None = None) -> Tensor:
        axes = form.numbers("axes", operand)
        if not axes and form.integer("noop_with_empty_axes", 0):
            # An axis of one more, so that what is done to each element is done all the same.
            return function(x.unsqueeze(0), [0], False)
        if x.ndim == 0:
            return function(x.unsqueeze(0), [0], False)
        return function(x, axes_of(axes or list(range(x.ndim)), x.ndim), bool(form.integer("keepdims", 1)))

    return reduced


_REDUCTIONS: dict[str, Reduction] = {
    "L1": lambda x, axes, keep: _sum(x.abs(), axes, keep),
    "L2": _in_double(lambda x, axes, keep: _sum(x * x, axes, keep).sqrt()),
    "LogSum": _in_double(lambda x, axes, keep: _sum(x, axes, keep).log()),
    "LogSumExp": _in_double(torch.logsumexp),
    "Max": _extremum(torch.amax, -1),
    "Mean": _mean,
    "Min": _extremum(torch.amin, 1),
    "Prod": _product,
    "Sum": _sum,
    "SumSquare": lambda x, axes, keep: _sum(x * x, axes, keep),
}


def _position(extremum: Callable[..., Tensor]) -> Function:
    """Where the extremum is, the first of equal ones or the last; a NaN is one."""

    def position(form: Form, x: Tensor) -> Tensor:
        axis = form.integer("axis", 0) % max(x.ndim, 1)
        last = form.integer("select_last_index", 0)
        hit = (x == extremum(x, axis, keepdim=True)) | x.isnan()
        places = torch.arange(x.shape[axis], device=x.device).reshape([-1 if a == axis else 1 for a in range(x.ndim)])
        places = torch.where(hit, places, -1 if last else x.shape[axis])
        found = places.amax(axis, keepdim=True) if last else places.amin(axis, keepdim=True)
        return found if form.integer("keepdims", 1) else found.squeeze(axis)

    return position


def top_k(form: Form, x: Tensor, count: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Of equal elements, that with the lower index comes first, so the sort is stable."""
    k = form.integer("k", 1) if count is None else int(count.item())
    axis = form.integer("axis", -1)
    values, places = torch.sort(x, dim=axis, descending=bool(form.integer("largest", 1)), stable=True)
    return values.narrow(axis, 0, k), places.narrow(axis, 0, k)


def _cumulative(function: Callable[..., Tensor], neutral: int) -> Function:
    def cumulative(form: Form, x: Tensor, operand: Tensor) -> Tensor:
        axis = int(operand.item()) % x.ndim
        x = x.flip(axis) if form.integer("reverse", 0) else x
        if form.integer("exclusive", 0):
            first = torch.full_like(x.narrow(axis, 0, 1), neutral)
            x = torch.cat([first, x.narrow(axis, 0, x.shape[axis] - 1)], axis)
        total = function(x, axis, dtype=x.dtype)
        return total.flip(axis) if form.integer("reverse", 0) else total

    return cumulative


FUNCTIONS: dict[str, Function] = {
    **{f"Reduce{name}": _reduction(function) for name, function in _REDUCTIONS.items()},
    "ArgMax": _position(torch.amax),
    "ArgMin": _position(torch.amin),
    "CumProd": _cumulative(torch.cumprod, 1),
    "CumSum": _cumulative(torch.cumsum, 0),
    "TopK": top_k,
}
