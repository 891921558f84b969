"""Integers that stand for real numbers: real = (integer - zero point) * scale.

Sums of products of integers are taken in float64, where they are exact. What is rounded is rounded to even, in the
type of the scales, as ONNX Runtime does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from optgraph.ops.standard.arithmetic import matmul
from optgraph.ops.standard.form import Form, Function, along
from optgraph.ops.standard.shapes import dtype_of
from optgraph.ops.standard.windows import convolve


def _spread(form: Form, vector: Tensor, x: Tensor) -> Tensor:
    """A scale or zero point, one of all of x, one an index of `axis`, or one a block along it, to broadcast with x."""
    axis = form.integer("axis", 1)
    block = form.integer("block_size", 0)
    if block and vector.ndim:
        axis %= x.ndim
        return vector.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    return along(vector, axis, x.ndim)


def _saturated(x: Tensor, dtype: torch.dtype) -> Tensor:
    limits = torch.iinfo(dtype)
    return x.clamp(limits.min, limits.max).to(torch.int64).to(dtype)


def quantize(form: Form, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    dtype = torch.uint8 if zero is None else zero.dtype
    if zero is None and form.get("output_dtype"):
        dtype = dtype_of(form.get("output_dtype"))
    spread = _spread(form, scale, x)
    steps = (x.to(spread.dtype) / spread).round()
    return _saturated(steps if zero is None else steps + _spread(form, zero, x).to(steps.dtype), dtype)


def dequantize(form: Form, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    steps = x.to(torch.int64)
    steps = steps if zero is None else steps - _spread(form, zero, x).to(torch.int64)
    return steps.to(scale.dtype) * _spread(form, scale, x)


def dynamic_quantize(form: Form, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """To the 256 steps from the least element, or zero, to the largest. A tensor of zeros gets a scale of one."""
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = (-low / scale).clamp(0, 255).round()
    return _saturated((x / scale).round() + zero, torch.uint8), scale, zero.to(torch.uint8)


def _exact(x: Tensor, zero: Tensor | None, axis: int) -> Tensor:
    """x less its zero point, one of all or one an index of `axis`. A zero point of more axes broadcasts as it is."""
    if zero is None:
        return x.double()
    return x.double() - (zero if zero.ndim > 1 else along(zero, axis, x.ndim)).double()


def convolve_integers(form: Form, x: Tensor, w: Tensor, *zeros: Tensor | None) -> Tensor:
    x_zero, w_zero = (*zeros, None, None)[:2]
    return convolve(form, _exact(x, x_zero, 0), _exact(w, w_zero, 0)).to(torch.int32)


def multiply_integers(form: Form, a: Tensor, b: Tensor, *zeros: Tensor | None) -> Tensor:
    """The zero point of `a` may be one a row, that of `b` one a column."""
    a_zero, b_zero = (*zeros, None, None)[:2]
    return matmul(form, _exact(a, a_zero, max(a.ndim - 2, 0)), _exact(b, b_zero, b.ndim - 1)).to(torch.int32)


def _requantized(total: Tensor, multiplier: Tensor, zero: Tensor) -> Tensor:
    steps = (total.to(multiplier.dtype) * multiplier).round()
    return _saturated(steps + zero.to(steps.dtype).reshape(()), zero.dtype)


def qlinear_conv(
    form: Form,
    x: Tensor,
    x_scale: Tensor,
    x_zero: Tensor,
    w: Tensor,
    w_scale: Tensor,
    w_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """w_scale and w_zero: one of all, or one an output channel. bias: in steps of x_scale * w_scale."""
    total = convolve(form, _exact(x, x_zero, 0), _exact(w, w_zero, 0))
    if bias is not None:
        total = total + along(bias, 1, x.ndim).double()
    multiplier = x_scale.reshape(()) * along(w_scale, 1, x.ndim) / y_scale.reshape(())
    return _requantized(total, multiplier, y_zero)


def qlinear_matmul(
    form: Form,
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
) -> Tensor:
    """Scales and zero points: one of all, one a row of `a`, or one a column of `b`."""
    row, column = max(a.ndim - 2, 0), b.ndim - 1
    total = matmul(form, _exact(a, a_zero, row), _exact(b, b_zero, column))
    rows = a_scale if a_scale.ndim > 1 else along(a_scale, row, a.ndim)
    columns = b_scale if b_scale.ndim > 1 else along(b_scale, column, b.ndim)
    return _requantized(total, rows * columns / y_scale.reshape(()), y_zero)


FUNCTIONS: dict[str, Function] = {
    "ConvInteger": convolve_integers,
    "DequantizeLinear": dequantize,
    "DynamicQuantizeLinear": dynamic_quantize,
    "MatMulInteger": multiply_integers,
    "QLinearConv": qlinear_conv,
    "QLinearMatMul": qlinear_matmul,
    "QuantizeLinear": quantize,
}
