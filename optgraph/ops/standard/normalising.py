"""Elements by the mean and variance, or the norm, of those beside them."""

from __future__ import annotations

import torch
from torch import Tensor

from optgraph.ops.standard.form import Form, Function


def _standardised(x: Tensor, axes: list[int], epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """x with mean 0 and variance 1 over `axes`; the mean; one over the deviation."""
    mean = x.mean(axes, keepdim=True)
    scale = 1 / torch.sqrt(((x - mean) ** 2).mean(axes, keepdim=True) + epsilon)
    return (x - mean) * scale, mean, scale


def batch_norm(form: Form, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> tuple[Tensor, ...]:
    """In training mode by the batch's own mean and variance, which then move the running ones."""
    shape = (1, -1, *[1] * (x.ndim - 2))
    if not form.integer("training_mode", 0):
        y = (x - mean.reshape(shape)) / torch.sqrt(var.reshape(shape) + form.number("epsilon", 1e-5))
        return (y * scale.reshape(shape) + bias.reshape(shape),)
    momentum = form.number("momentum", 0.9)
    axes = [axis for axis in range(x.ndim) if axis != 1]
    y, own, _ = _standardised(x, axes, form.number("epsilon", 1e-5))
    spread = ((x - own) ** 2).mean(axes)
    running = tuple(old * momentum + new * (1 - momentum) for old, new in ((mean, own.reshape(-1)), (var, spread)))
    return (y * scale.reshape(shape) + bias.reshape(shape), *running)[: form.outputs]


def instance_norm(form: Form, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    y, _, _ = _standardised(x, list(range(2, x.ndim)), form.number("epsilon", 1e-5))
    shape = (-1, *[1] * (x.ndim - 2))
    return y * scale.reshape(shape) + bias.reshape(shape)


def group_norm(form: Form, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """scale and bias: one a group until opset 21, one a channel from then on."""
    groups, channels = form.get("num_groups"), x.shape[1]
    rows, _, _ = _standardised(x.reshape(x.shape[0], groups, -1), [2], form.number("epsilon", 1e-5))
    if form.opset < 21:
        scale, bias = (vector.repeat_interleave(channels // groups) for vector in (scale, bias))
    shape = (-1, *[1] * (x.ndim - 2))
    return rows.reshape(x.shape) * scale.reshape(shape) + bias.reshape(shape)


def layer_norm(form: Form, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> tuple[Tensor, ...]:
    first = form.integer("axis", -1) % x.ndim
    y, mean, deviation = _standardised(x, list(range(first, x.ndim)), form.number("epsilon", 1e-5))
    y = y * scale if bias is None else y * scale + bias
    return (y, mean, deviation)[: form.outputs]


def rms_norm(form: Form, x: Tensor, scale: Tensor) -> Tensor:
    axes = list(range(form.integer("axis", -1) % x.ndim, x.ndim))
    return x / torch.sqrt((x * x).mean(axes, keepdim=True) + form.number("epsilon", 1e-5)) * scale


def lp_norm(form: Form, x: Tensor) -> Tensor:
    """Zero where all is zero."""
    axis = form.integer("axis", -1)
    norm = x.abs().sum(axis, True) if form.integer("p", 2) == 1 else (x * x).sum(axis, True).sqrt()
    return torch.where(norm == 0, torch.zeros_like(x), x / norm)


FUNCTIONS: dict[str, Function] = {
    "BatchNormalization": batch_norm,
    "GroupNormalization": group_norm,
    "InstanceNormalization": instance_norm,
    "LayerNormalization": layer_norm,
    "LpNormalization": lp_norm,
    "RMSNormalization": rms_norm,
}
