"""Weights on a device: constants packed as the kernels want them, once for all plans of a net."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch

from optgraph.base.arrays import to_tensor
from optgraph.base.dtypes import nearest_tf32, torch_dtype
from optgraph.plan.plan import Packed

# How a weight is packed, and the ids of the arrays that it is packed of.
_Key = tuple[Callable[..., Any], str, str, str, tuple[int, ...]]


class Weights:
    """Packs constants on demand and keeps them; threads may share it.

    constants: the graph's arrays. device: where the packed tensors live. like: those of another graph on the same
    device; what both pack of the same arrays, in the same way, is there once.
    """

    def __init__(self, constants: dict[str, np.ndarray], device: torch.device, like: Weights | None = None) -> None:
        self._constants = constants
        self._device = device
        self._packed: dict[str, torch.Tensor] = {}
        self._shared: WeakValueDictionary[_Key, torch.Tensor] = like._shared if like else WeakValueDictionary()
        self._lock: threading.Lock = like._lock if like else threading.Lock()

    def get(self, key: str, packed: Packed) -> torch.Tensor:
        with self._lock:
            if key not in self._packed:
                # Whoever holds the tensor holds the arrays, so while it is there, no others can have their ids.
                arrays = tuple(id(self._constants[name]) if name else 0 for name in packed.sources)
                shared = packed.pack, packed.dtype, packed.precision, repr(dict(packed.options)), arrays
                tensor = self._shared.get(shared)
                if tensor is None:
                    self._shared[shared] = tensor = self._pack(packed)
                self._packed[key] = tensor
            return self._packed[key]

    def _pack(self, packed: Packed) -> torch.Tensor:
        sources = [to_tensor(self._constants[name]) if name else None for name in packed.sources]
        tensor: torch.Tensor = packed.pack(*sources, **packed.options)
        if packed.precision == "tf32":
            tensor = nearest_tf32(tensor.float())
        return tensor.to(self._device, torch_dtype(packed.dtype)).contiguous()


class Shapes(Weights):
    """Weights of the right shapes and types, and no bytes: for plans that are only looked at. One for all plans of a
    graph saves packing them again."""

    def __init__(self, constants: dict[str, np.ndarray]) -> None:
        super().__init__(constants, torch.device("meta"))

    def _pack(self, packed: Packed) -> torch.Tensor:
        # Not on the meta device, where torch first loads all of its compiler for some operators.
        sources = [torch.zeros(()).expand(self._constants[name].shape) if name else None for name in packed.sources]
        shape = packed.pack(*sources, **packed.options).shape
        return torch.empty(shape, dtype=torch_dtype(packed.dtype), device=self._device)


def as_is(constant: torch.Tensor) -> torch.Tensor:
    """One constant, unchanged."""
    return constant


def joined_vectors(*vectors: torch.Tensor | None, sizes: Sequence[int]) -> torch.Tensor:
    """Vectors of the given sizes end to end; an absent one is zeros."""
    return torch.cat([torch.zeros(n) if v is None else v for v, n in zip(vectors, sizes, strict=True)])
