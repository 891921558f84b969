"""Elements in another shape or order, repeated, or given a margin."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from optgraph.ops.standard.form import Form, Function, OutsideTorchError


def dropout(form: Form, x: Tensor, *training: Tensor | None) -> Tensor | tuple[Tensor, ...]:
    """For inference, which drops nothing: the mask is all true."""
    if len(training) == 2 and training[1] is not None and bool(training[1]):
        raise OutsideTorchError("dropout in training mode")
    return x if form.outputs == 1 else (x, torch.ones_like(x, dtype=torch.bool))


def reshape(form: Form, x: Tensor, operand: Tensor | None = None) -> Tensor:
    """A 0 copies the dimension at its place, unless `allowzero`."""
    target = form.numbers("shape", operand) or []
    return x.reshape([x.shape[i] if d == 0 and not form.integer("allowzero", 0) else d for i, d in enumerate(target)])


def flatten(form: Form, x: Tensor) -> Tensor:
    axis = form.integer("axis", 1)
    rows = math.prod(x.shape[: axis + x.ndim if axis < 0 else axis])
    return x.reshape(rows, x.numel() // rows if rows else -1)


def squeeze(form: Form, x: Tensor, operand: Tensor | None = None) -> Tensor:
    axes = form.numbers("axes", operand)
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def unsqueeze(form: Form, x: Tensor, operand: Tensor | None = None) -> Tensor:
    axes = form.numbers("axes", operand) or []
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def expand(form: Form, x: Tensor, target: Tensor) -> Tensor:
    return x.expand(np.broadcast_shapes(tuple(x.shape), tuple(target.tolist())))


def tile(form: Form, x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(repeats.tolist())


def concat(form: Form, *parts: Tensor) -> Tensor:
    return torch.cat(parts, form.integer("axis", 1))


def split(form: Form, x: Tensor, operand: Tensor | None = None) -> tuple[Tensor, ...]:
    """Without sizes, into as many equal pieces as there are outputs, the last one smaller if need be."""
    axis = form.integer("axis", 0)
    sizes = form.numbers("split", operand)
    if sizes is None:
        length = x.shape[axis]
        chunk = math.ceil(length / form.outputs)
        sizes = [chunk] * (form.outputs - 1) + [length - chunk * (form.outputs - 1)]
    return torch.split(x, sizes, axis)


def slices(form: Form, x: Tensor, *operands: Tensor | None) -> Tensor:
    """x[start:end:step] along each of `axes`; `starts`, `ends` and `axes` were attributes until opset 10."""
    names = ("starts", "ends", "axes", "steps")
    given = dict(zip(names, operands, strict=False))
    starts, ends, axes, steps = (form.numbers(name, given.get(name)) for name in names)
    for i, (start, end) in enumerate(zip(starts or [], ends or [], strict=True)):
        axis = axes[i] if axes else i
        size, step = x.shape[axis], steps[i] if steps else 1
        # An end before the first element, where a step goes back, is no end to Python.
        kept = range(size)[slice(start, end if step > 0 or end >= -size else None, step)]
        x = x.index_select(axis, torch.tensor(list(kept), dtype=torch.int64, device=x.device))
    return x


def pad(
    form: Form, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    """A margin of a number, or of what an index outside means: the nearest element, the mirrored, or round the end."""
    margins = form.numbers("pads", pads) or []
    padded = [axis % x.ndim for axis in form.numbers("axes", axes) or range(len(margins) // 2)]
    fill = form.number("value", 0.0) if value is None else value.item()
    for i, axis in enumerate(padded):
        before, after = margins[i], margins[i + len(padded)]
        size = x.shape[axis]
        index = torch.arange(-before, size + after, device=x.device)
        inside = (index >= 0) & (index < size)
        match form.text("mode", "constant"):
            case "reflect":
                period = max(2 * (size - 1), 1)
                index = (index % period).where(index % period < size, period - index % period)
            case "wrap":
                index = index % size
            case _:
                index = index.clamp(0, max(size - 1, 0))
        if form.text("mode", "constant") == "constant":
            shape = [-1 if a == axis else 1 for a in range(x.ndim)]
            filled = torch.full([], fill, dtype=x.dtype, device=x.device)
            x = torch.where(inside.reshape(shape), x.index_select(axis, index) if size else filled, filled)
        else:
            x = x.index_select(axis, index)
    return x


def space_to_depth(form: Form, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    b = form.get("blocksize")
    blocks = x.reshape(n, c, h // b, b, w // b, b)
    order = (0, 1, 3, 5, 2, 4) if form.text("mode", "DCR") == "CRD" else (0, 3, 5, 1, 2, 4)
    return blocks.permute(order).reshape(n, c * b * b, h // b, w // b)


def reverse_sequence(form: Form, x: Tensor, lengths: Tensor) -> Tensor:
    """The first `lengths[i]` steps of sequence i turned round."""
    batch, time = form.integer("batch_axis", 1), form.integer("time_axis", 0)
    steps = torch.arange(x.shape[time], device=x.device)
    ends = lengths.reshape(-1, 1)
    order = torch.where(steps < ends, ends - 1 - steps, steps)  # of [sequence, step]
    moved = x.movedim((batch, time), (0, 1))
    index = order.reshape(*order.shape, *[1] * (x.ndim - 2)).expand(moved.shape)
    return moved.gather(1, index).movedim((0, 1), (batch, time))


def center_crop_pad(form: Form, x: Tensor, target: Tensor) -> Tensor:
    """The middle of each axis cut out, or the axis in the middle of zeros; the odd element is at the end."""
    sizes = target.tolist()
    axes = form.numbers("axes") or range(x.ndim)
    for axis, size in zip(axes, sizes, strict=True):
        length = x.shape[axis]
        if size <= length:
            x = x.narrow(axis, (length - size) // 2, size)
            continue
        shape = list(x.shape)
        shape[axis] = size
        wide = x.new_zeros(shape)
        wide.narrow(axis, (size - length) // 2, length).copy_(x)
        x = wide
    return x


FUNCTIONS: dict[str, Function] = {
    "CenterCropPad": center_crop_pad,
    "Concat": concat,
    "Dropout": dropout,
    "Expand": expand,
    "Flatten": flatten,
    "Pad": pad,
    "Reshape": reshape,
    "ReverseSequence": reverse_sequence,
    "Slice": slices,
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Squeeze": squeeze,
    "Tile": tile,
    "Unsqueeze": unsqueeze,
}
