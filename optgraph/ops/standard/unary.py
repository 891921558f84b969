"""Each element by itself: mathematics and activations."""

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


def elu(form: Form, x: Tensor) -> Tensor:
    return _elu(x, form.number("alpha", 1.0))


def _elu(x: Tensor, alpha: float) -> Tensor:
    return torch.where(x > 0, x, alpha * torch.expm1(x))


def selu(form: Form, x: Tensor) -> Tensor:
    alpha, gamma = _SELU
    return form.number("gamma", gamma) * _elu(x, form.number("alpha", alpha))


def celu(form: Form, x: Tensor) -> Tensor:
    alpha = form.number("alpha", 1.0)
    return torch.where(x > 0, x, alpha * torch.expm1(x / alpha))


def leaky_relu(form: Form, x: Tensor) -> Tensor:
    return torch.where(x < 0, form.number("alpha", 0.01) * x, x)


def thresholded_relu(form: Form, x: Tensor) -> Tensor:
    return torch.where(x > form.number("alpha", 1.0), x, torch.zeros_like(x).where(~x.isnan(), x))


def gelu(form: Form, x: Tensor) -> Tensor:
    if form.text("approximate", "none") == "tanh":
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def _softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros_like(x))  # torch's own is x itself from 20 on


def hard_sigmoid(form: Form, x: Tensor) -> Tensor:
    return (form.number("alpha", 0.2) * x + form.number("beta", 0.5)).clamp(0, 1)


def hard_swish(form: Form, x: Tensor) -> Tensor:
    return x * (x / 6 + 0.5).clamp(0, 1)


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


def hardmax(x: Tensor, axis: int) -> Tensor:
    """One at the first largest element along `axis`, zero elsewhere."""
    largest = x == x.amax(axis, keepdim=True)
    return (largest & (largest.cumsum(axis) == 1)).to(x.dtype)


FUNCTIONS: dict[str, Function] = {
    **{
        name: _plain(getattr(torch, name.lower()))
        for name in (
            *("Abs", "Neg", "Exp", "Log", "Sqrt", "Floor", "Ceil", "Round", "Sign", "Erf", "Reciprocal"),
            *("Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Tanh", "Asinh", "Acosh", "Atanh"),
            *("Sigmoid", "Relu", "IsNaN"),
        )
    },
    "BitwiseNot": _plain(torch.bitwise_not),
    "Celu": celu,
    "Clip": clip,
    "Elu": elu,
    "Gelu": gelu,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": hard_swish,
    "Hardmax": lambda form, x: _over_axis(form, x, hardmax),
    "IsInf": is_inf,
    "LeakyRelu": leaky_relu,
    "LogSoftmax": log_softmax,
    "Mish": _plain(lambda x: x * torch.tanh(_softplus(x))),
    "Not": _plain(torch.logical_not),
    "Selu": selu,
    "Shrink": shrink,
    "Softmax": softmax,
    "Softplus": _plain(_softplus),
    "Softsign": _plain(lambda x: x / (1 + x.abs())),
    "Swish": swish,
    "ThresholdedRelu": thresholded_relu,
}
