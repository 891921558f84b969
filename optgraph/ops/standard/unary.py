"""Each element by itself, and what is as easily said: what `Activation` and `Softmax` leave."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from optgraph.ops.standard.form import Form, Function

_SELU = (1.67326319217681884765625, 1.05070102214813232421875)


def _plain(function: Callable[[Tensor], Tensor]) -> Function:
    """Of a torch function that does the same."""
    return lambda form, x: function(x)


def swish(form: Form, x: Tensor) -> Tensor:
    return x * torch.sigmoid(form.number("alpha", 1.0) * x)


def shrink(form: Form, x: Tensor) -> Tensor:
    bias, limit = form.number("bias", 0.0), form.number("lambd", 0.5)
    shrunk = torch.where(x > limit, x - bias, torch.zeros_like(x))
    return torch.where(x < -limit, x + bias, shrunk).to(x.dtype)


def clip(form: Form, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Bounds were attributes until opset 11. Where the lower one is the higher, all is the upper one."""
    bounds = [
        torch.as_tensor(form.get(name), dtype=x.dtype) if operand is None and form.get(name) is not None else operand
        for name, operand in (("min", low), ("max", high))
    ]
    for bound, choose in zip(bounds, (torch.maximum, torch.minimum), strict=True):
        x = x if bound is None else choose(x, bound.to(x.device).reshape(()))
    return x


def is_inf(form: Form, x: Tensor) -> Tensor:
    found = torch.zeros_like(x, dtype=torch.bool)
    if form.integer("detect_negative", 1):
        found = found | torch.isneginf(x)
    return found | torch.isposinf(x) if form.integer("detect_positive", 1) else found


# Softmax and its kin ran over all axes from `axis` on, as one, until opset 13.


def _over_axis(form: Form, x: Tensor, function: Callable[[Tensor, int], Tensor]) -> Tensor:
    if form.opset >= 13:
        return function(x, form.integer("axis", -1))
    axis = form.integer("axis", 1)
    rows = math.prod(x.shape[: axis + x.ndim if axis < 0 else axis])
    return function(x.reshape(rows, -1), 1).reshape(x.shape)


def softmax(form: Form, x: Tensor) -> Tensor:
    return _over_axis(form, x, torch.softmax)


def log_softmax(form: Form, x: Tensor) -> Tensor:
    return _over_axis(form, x, torch.log_softmax)


FUNCTIONS: dict[str, Function] = {
    **{
        name: _plain(getattr(torch, name.lower()))
        for name in (
            *("Abs", "Neg", "Sign", "Relu", "IsNaN"),
            *("Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh"),
        )
    },
    "BitwiseNot": _plain(torch.bitwise_not),
    "Clip": clip,
    "IsInf": is_inf,
    "LogSoftmax": log_softmax,
    "Not": _plain(torch.logical_not),
    "Shrink": shrink,
    "Softmax": softmax,
    "Swish": swish,
}
