"""Elements taken from, or put to, places that an input names. A negative index counts from the end."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from optgraph.ops.standard.form import Form, Function

# ONNX's reduction -> torch's.
_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _positive(index: Tensor, size: int) -> Tensor:
    index = index.to(torch.int64)
    return torch.where(index < 0, index + size, index)


def gather(form: Form, x: Tensor, indices: Tensor) -> Tensor:
    axis = form.integer("axis", 0) % x.ndim
    index = _positive(indices, x.shape[axis])
    taken = x.index_select(axis, index.reshape(-1))
    return taken.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def gather_elements(form: Form, x: Tensor, indices: Tensor) -> Tensor:
    axis = form.integer("axis", 0)
    return x.gather(axis, _positive(indices, x.shape[axis]))


def gather_nd(form: Form, x: Tensor, indices: Tensor) -> Tensor:
    """x[:, ..., i, j, ...] for each row i, j, ... of `indices`, within each of the batch."""
    batch = form.integer("batch_dims", 0)
    depth = indices.shape[-1]
    rows = math.prod(x.shape[:batch])
    flat = x.reshape((rows, *x.shape[batch:]))
    index = indices.reshape(rows, -1, depth)
    first = torch.arange(rows, device=x.device).reshape(-1, 1)
    places = [_positive(index[..., i], x.shape[batch + i]) for i in range(depth)]
    return flat[(first, *places)].reshape((*indices.shape[:-1], *x.shape[batch + depth :]))


def scatter_elements(form: Form, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    axis, reduction = form.integer("axis", 0), form.text("reduction", "none")
    index = _positive(indices, x.shape[axis])
    if reduction == "none":
        return x.scatter(axis, index, updates)
    return x.scatter_reduce(axis, index, updates, _REDUCTIONS[reduction])


def scatter_nd(form: Form, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """Slices of x replaced by `updates`, or combined with them, where each row of `indices` points."""
    depth, reduction = indices.shape[-1], form.text("reduction", "none")
    place = torch.zeros(indices.shape[:-1], dtype=torch.int64, device=x.device)
    for i in range(depth):
        place = place * x.shape[i] + _positive(indices[..., i], x.shape[i])
    rows, inner = math.prod(x.shape[:depth]), math.prod(x.shape[depth:])
    flat, source = x.reshape(rows, inner), updates.reshape(-1, inner)
    index = place.reshape(-1, 1).expand(source.shape)
    if reduction == "none":
        return flat.scatter(0, index, source).reshape(x.shape)
    return flat.scatter_reduce(0, index, source, _REDUCTIONS[reduction]).reshape(x.shape)


def non_zero(form: Form, x: Tensor) -> Tensor:
    return torch.nonzero(x).T  # of a scalar, ONNX asks for 0×1 or 0×0 too; ONNX Runtime gives 1×1 or 1×0


def compress(form: Form, x: Tensor, condition: Tensor) -> Tensor:
    axis = form.get("axis")
    kept = torch.nonzero(condition).reshape(-1)
    return x.reshape(-1).index_select(0, kept) if axis is None else x.index_select(axis, kept)


FUNCTIONS: dict[str, Function] = {
    "Compress": compress,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "NonZero": non_zero,
    "Scatter": scatter_elements,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
}
