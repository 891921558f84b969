"""Two or more tensors, element by element with numpy's broadcasting, and products of matrices."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from optgraph.ops.standard.form import Form, Function


def _plain(function: Callable[[Tensor, Tensor], Tensor]) -> Function:
    """Of a torch function of two tensors that does the same."""
    return lambda form, x, y: function(x, _aligned(form, x, y))


def _aligned(form: Form, x: Tensor, y: Tensor) -> Tensor:
    """Until opset 7, `axis` said where in x the axes of y begin; without it, the last ones were meant, as since."""
    axis = form.get("axis")
    return y if axis is None else y.reshape((*y.shape, *[1] * (x.ndim - axis % x.ndim - y.ndim)))


def _folded(function: Callable[[Tensor, Tensor], Tensor]) -> Function:
    """Of any number of tensors, from left to right."""
    return lambda form, *terms: functools.reduce(function, terms)


def divide(form: Form, x: Tensor, y: Tensor) -> Tensor:
    """Integers are rounded towards zero."""
    y = _aligned(form, x, y)
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def power(form: Form, x: Tensor, y: Tensor) -> Tensor:
    """Of the type of the base, whatever that of the exponent."""
    y = _aligned(form, x, y)
    if x.is_floating_point() or not (y.is_floating_point() or bool((y < 0).any())):
        return torch.pow(x, y).to(x.dtype)
    return torch.pow(x.double(), y.double()).to(x.dtype)


def modulo(form: Form, x: Tensor, y: Tensor) -> Tensor:
    """With the sign of the dividend if `fmod`, else with that of the divisor."""
    return torch.fmod(x, y) if form.integer("fmod", 0) else torch.remainder(x, y)


def mean(form: Form, *terms: Tensor) -> Tensor:
    return functools.reduce(torch.add, terms) / len(terms)


def shift(form: Form, x: Tensor, y: Tensor) -> Tensor:
    left = form.text("direction", "") == "LEFT"
    return torch.bitwise_left_shift(x, y) if left else torch.bitwise_right_shift(x, y)


def where(form: Form, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return torch.where(condition, x, y)


def matmul(form: Form, x: Tensor, y: Tensor) -> Tensor:
    return torch.matmul(x, y)


def gemm(form: Form, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.T if form.integer("transA", 0) else a
    b = b.T if form.integer("transB", 0) else b
    product = form.number("alpha", 1.0) * (a @ b)
    return (product if c is None else product + form.number("beta", 1.0) * c).to(a.dtype)


def einsum(form: Form, *operands: Tensor) -> Tensor:
    return torch.einsum(form.text("equation", "").replace(" ", ""), *operands)


def determinant(form: Form, x: Tensor) -> Tensor:
    return torch.det(x)


FUNCTIONS: dict[str, Function] = {
    "Add": _plain(torch.add),
    "And": _plain(torch.logical_and),
    "BitShift": shift,
    "BitwiseAnd": _plain(torch.bitwise_and),
    "BitwiseOr": _plain(torch.bitwise_or),
    "BitwiseXor": _plain(torch.bitwise_xor),
    "Det": determinant,
    "Div": divide,
    "Einsum": einsum,
    "Equal": _plain(torch.eq),
    "Gemm": gemm,
    "Greater": _plain(torch.gt),
    "GreaterOrEqual": _plain(torch.ge),
    "Less": _plain(torch.lt),
    "LessOrEqual": _plain(torch.le),
    "MatMul": matmul,
    "Max": _folded(torch.maximum),
    "Mean": mean,
    "Min": _folded(torch.minimum),
    "Mod": modulo,
    "Mul": _plain(torch.mul),
    "Or": _plain(torch.logical_or),
    "Pow": power,
    "Sub": _plain(torch.sub),
    "Where": where,
    "Xor": _plain(torch.logical_xor),
}
