"""What a call is given, against the inputs of a network: by name, of the right shapes and types, one batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from optgraph.base.errors import InputError
from optgraph.ir.values import BATCH, Value

Array = np.ndarray | torch.Tensor


def named(x: Array | Mapping[str, Array], inputs: Iterable[str]) -> dict[str, Array]:
    """The inputs by name, whatever their shapes. Raises InputError for a mapping that has not just these."""
    names = list(inputs)
    if isinstance(x, Mapping):
        feeds = dict(x)
    elif len(names) == 1:
        feeds = {names[0]: x}
    else:
        raise InputError(f"the network has {len(names)} inputs: pass a dict of {', '.join(names)}")
    if set(feeds) != set(names):
        raise InputError(f"the network's inputs are {', '.join(names)}; got {', '.join(feeds) or 'none'}")
    return feeds


def batch_of(feeds: Mapping[str, Array], inputs: Mapping[str, Value]) -> int:
    """How many images they are: 1 where no input has an open batch. Raises InputError unless they fit the inputs."""
    found = [_checked(name, array, inputs[name]) for name, array in feeds.items()]
    batches = sorted({batch for batch in found if batch is not None})
    if len(batches) > 1:
        raise InputError(f"inputs of different batch sizes: {batches}")
    return batches[0] if batches else 1


def fits(feeds: Mapping[str, Array], inputs: Mapping[str, Value]) -> bool:
    """Whether these are arrays for the inputs."""
    try:
        batch_of(named(feeds, inputs), inputs)
    except InputError:
        return False
    return True


def _checked(name: str, array: Array, value: Value) -> int | None:
    """Raises InputError unless `array` fits input `name`; returns its batch where that is free."""
    expected = f"input '{name}' expects {value.dtype} of shape {shape_text(value.shape)}"
    if not isinstance(array, np.ndarray | torch.Tensor):
        raise InputError(f"{expected}, got a {type(array).__name__}: pass a numpy array or a torch tensor")
    dtype = str(array.dtype).removeprefix("torch.")
    if dtype != value.dtype:
        remedy = f"x.{'to' if isinstance(array, torch.Tensor) else 'astype'}(...{value.dtype})"
        raise InputError(f"{expected}, got {dtype}: convert it, {remedy}")
    shape = tuple(array.shape)
    fits = len(shape) == len(value.shape) and all(
        d >= 1 if isinstance(e, str) else d == e for d, e in zip(shape, value.shape, strict=True)
    )
    if not fits:
        raise InputError(f"{expected}, got {shape_text(shape)}")
    return shape[0] if value.shape and value.shape[0] == BATCH else None


def shape_text(shape: Sequence[object]) -> str:
    """'[N, 3, 480, 640]'."""
    return "[" + ", ".join(str(d) for d in shape) + "]"
