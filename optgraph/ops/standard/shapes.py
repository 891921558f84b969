"""Shapes read, and tensors made from nothing but numbers."""

from __future__ import annotations

import math

import numpy as np
import torch
from onnx import helper, numpy_helper
from torch import Tensor

from optgraph.base.dtypes import torch_dtype
from optgraph.ops.standard.form import Form, Function


def dtype_of(element: int) -> torch.dtype:
    """The torch dtype of an ONNX element type. Raises ModelError if torch has none."""
    return torch_dtype(str(helper.tensor_dtype_to_np_dtype(element)))


def shape(form: Form, x: Tensor) -> Tensor:
    return torch.tensor(list(x.shape)[slice(form.get("start"), form.get("end"))], dtype=torch.int64, device=x.device)


def size(form: Form, x: Tensor) -> Tensor:
    return torch.tensor(x.numel(), dtype=torch.int64, device=x.device)


def constant_of_shape(form: Form, target: Tensor) -> Tensor:
    value = form.get("value")
    array = np.zeros(1, np.float32) if value is None else np.array(numpy_helper.to_array(value))
    number = array.astype(np.float32) if str(array.dtype) == "bfloat16" else array
    dtype = torch_dtype(str(array.dtype))
    return torch.from_numpy(number).to(target.device, dtype).reshape(()).repeat(target.tolist() or ())


def range_of(form: Form, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    first, end, step = start.item(), limit.item(), delta.item()
    count = max(math.ceil((end - first) / step), 0)
    return torch.arange(count, device=start.device).to(start.dtype) * delta.reshape(()) + start.reshape(())


def eye_like(form: Form, x: Tensor) -> Tensor:
    rows, columns = x.shape
    dtype = dtype_of(form.get("dtype")) if form.get("dtype") else x.dtype
    places = torch.arange(columns, device=x.device) - torch.arange(rows, device=x.device)[:, None]
    return (places == form.integer("k", 0)).to(dtype)


def one_hot(form: Form, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    """values: off and on. An index from -depth to -1 counts from the end; one outside of that is off everywhere."""
    count = int(depth.item())
    axis = form.integer("axis", -1)
    axis += indices.ndim + 1 if axis < 0 else 0
    places = torch.arange(count, device=indices.device)
    places = places.reshape([-1 if a == axis else 1 for a in range(indices.ndim + 1)])
    index = indices.to(torch.int64).unsqueeze(axis)
    hit = (places == index) | (places == index + count)
    return torch.where(hit, values[1], values[0])


def triangle(form: Form, x: Tensor, diagonal: Tensor | None = None) -> Tensor:
    k = 0 if diagonal is None else int(diagonal.item())
    return x.triu(k) if form.integer("upper", 1) else x.tril(k)


FUNCTIONS: dict[str, Function] = {
    "ConstantOfShape": constant_of_shape,
    "EyeLike": eye_like,
    "OneHot": one_hot,
    "Range": range_of,
    "Shape": shape,
    "Size": size,
    "Trilu": triangle,
}
