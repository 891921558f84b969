"""What a call is given, against the inputs of a network: by name, of the right shapes and types, one batch; and what it
gives back. A call that is right takes few steps: words are found for one that is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from optgraph.base.arrays import native, to_array
from optgraph.base.errors import InputError
from optgraph.ir.values import BATCH, Shape, Value

Array = np.ndarray | torch.Tensor
ARRAYS = (np.ndarray, torch.Tensor)
_CPU = torch.device("cpu")


def named(x: Array | Mapping[str, Array], inputs: Mapping[str, Value]) -> dict[str, Array]:
    """The inputs by name, whatever their shapes. Raises InputError for a mapping that has not just these."""
    if isinstance(x, ARRAYS) and len(inputs) == 1:
        return {next(iter(inputs)): x}
    if isinstance(x, Mapping):
        feeds = dict(x)
    elif len(inputs) == 1:
        feeds = {next(iter(inputs)): x}
    else:
        raise InputError(f"the network has {len(inputs)} inputs: pass a dict of {', '.join(inputs)}")
    if feeds.keys() != inputs.keys():
        raise InputError(f"the network's inputs are {', '.join(inputs)}; got {', '.join(map(str, feeds)) or 'none'}")
    return feeds


def batch_of(feeds: Mapping[str, Array], inputs: Mapping[str, Value]) -> int:
    """How many images they are: 1 where no input has an open batch. Raises InputError unless they fit the inputs."""
    batch = None
    for name, array in feeds.items():
        value = inputs[name]
        _check(name, array, value)
        if value.shape and value.shape[0] == BATCH:
            if batch is not None and batch != array.shape[0]:
                raise InputError(f"inputs of different batch sizes: {batch} and {array.shape[0]}")
            batch = array.shape[0]
    return 1 if batch is None else batch


def given_back(results: Mapping[str, torch.Tensor], types: Mapping[str, torch.dtype], like: Array) -> dict[str, Array]:
    """The results in these types, tensors where `like` is, or arrays."""
    if not isinstance(like, torch.Tensor):
        return {name: to_array(tensor.to(_CPU, types[name])) for name, tensor in results.items()}
    moved: dict[str, Array] = {}
    for name, tensor in results.items():
        there = tensor.dtype is types[name] and tensor.device == like.device
        moved[name] = tensor if there else tensor.to(like.device, types[name])
    return moved


def as_feeds(x: Array | Mapping[str, Array], inputs: Mapping[str, Value]) -> dict[str, np.ndarray]:
    """What a call may be given, as arrays by name, whatever they were. Raises InputError unless they fit the inputs."""
    feeds = named(x, inputs)
    batch_of(feeds, inputs)
    return {name: to_array(a) if isinstance(a, torch.Tensor) else native(a) for name, a in feeds.items()}


def listed(several: Any) -> Sequence[Any]:
    """What a network is given call by call; one, where only one was given."""
    return [several] if isinstance(several, (Mapping, np.ndarray, torch.Tensor)) else several


def _check(name: str, array: Array, value: Value) -> None:
    """Raises InputError unless `array` fits input `name`."""
    if not isinstance(array, ARRAYS):
        raise InputError(
            f"{_expected(name, value)}, got a {type(array).__name__}: pass a numpy array or a torch tensor"
        )
    if isinstance(array, torch.Tensor):
        dtype, remedy = str(array.dtype).removeprefix("torch."), f"x.to(torch.{value.dtype})"
        if array.layout is not torch.strided:
            raise InputError(f"{_expected(name, value)}, got a sparse tensor: make it dense, x.to_dense()")
        if array.is_nested:
            raise InputError(f"{_expected(name, value)}, got a nested tensor: pass one image after another")
        if array.is_meta:
            raise InputError(f"{_expected(name, value)}, got a tensor of the meta device, which has no numbers")
    else:
        dtype, remedy = array.dtype.name, f'x.astype("{value.dtype}")'
    if dtype != value.dtype:
        raise InputError(f"{_expected(name, value)}, got {dtype}: convert it, {remedy}")
    if not _fits(array.shape, value.shape):
        raise InputError(f"{_expected(name, value)}, got {shape_text(array.shape)}{_moved(array, value.shape)}")


def _moved(array: Array, expected: Shape) -> str:
    """What makes `array` fit, where only its batch is missing or its channels stand elsewhere; '' otherwise."""
    shape = tuple(array.shape)
    if _fits((1, *shape), expected):
        return ": x[None] is a batch of one"
    if len(shape) == 4:
        for order in ((0, 3, 1, 2), (0, 2, 3, 1)):
            if _fits([shape[axis] for axis in order], expected):
                method = "permute" if isinstance(array, torch.Tensor) else "transpose"
                return f": x.{method}{order} has its channels there"
    return ""


def _fits(shape: Sequence[int], expected: Shape) -> bool:
    if len(shape) != len(expected):
        return False
    for size, wanted in zip(shape, expected, strict=True):
        if size != wanted and not (isinstance(wanted, str) and size >= 1):
            return False
    return True


def _expected(name: str, value: Value) -> str:
    return f"input '{name}' expects {value.dtype} of shape {shape_text(value.shape)}"


def shape_text(shape: Sequence[object]) -> str:
    """'[N, 3, 480, 640]'."""
    return "[" + ", ".join(str(d) for d in shape) + "]"
