"""Arrays as tensors and back. torch reads no numpy array of bfloat16 and makes none: the bits go over as integers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def as_tensor(array: np.ndarray) -> Tensor:
    """A CPU tensor of the same type and numbers, in the memory of `array` where it can be."""
    import torch

    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    # Of two types of 8 bytes that C has and numpy tells apart, torch knows one.
    return torch.from_numpy(array.view(np.uint64) if array.dtype == np.uint64 else array)


def to_tensor(array: np.ndarray) -> Tensor:
    """A CPU tensor of the same type and numbers, that shares no memory with `array`."""
    return as_tensor(np.array(array, order="C"))


def to_array(tensor: Tensor) -> np.ndarray:
    """An array of the same type and numbers."""
    import torch

    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    array: np.ndarray = tensor.numpy()
    return array
