"""Arrays as tensors and back. torch reads no numpy array of bfloat16 and makes none: the bits go over as integers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from optgraph.base.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


def native(array: np.ndarray) -> np.ndarray:
    """`array`; a copy where torch has no tensor of it, or warns of one: of another byte order, read-only, of strides
    that are negative or no whole numbers.

    Raises:
        InputError: it is masked, and has numbers that are not to be read.
    """
    dtype, flags = array.dtype, array.flags
    if isinstance(array, np.ma.MaskedArray):
        if np.ma.is_masked(array):
            raise InputError("the array is masked: fill in what is missing, x.filled(0)")
        array = array.data
    if not dtype.isnative:
        return array.astype(dtype.newbyteorder("="))
    if not flags.writeable or min(array.strides, default=0) < 0:
        return array.copy()
    whole = flags.c_contiguous or all(stride % dtype.itemsize == 0 for stride in array.strides)
    return array if whole else array.copy()


def as_tensor(array: np.ndarray) -> Tensor:
    """A CPU tensor of the same type and numbers, in the memory of `array` where it can be. Raises as `native`."""
    import torch

    array = native(array)
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

    tensor = tensor.detach().cpu().resolve_neg()  # the imaginary part of a conjugate has its sign still to come
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    array: np.ndarray = tensor.numpy()
    return array
