"""Weights on a device: constants packed as the kernels want them, once for all plans of a net."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch

from optgraph.plan.plan import Packed


class Weights:
    """Packs constants on demand and keeps them; threads may share it.

    constants: the graph's arrays. device: where the packed tensors live.
    """

    def __init__(self, constants: dict[str, np.ndarray], device: torch.device) -> None:
        self._constants = constants
        self._device = device
        self._packed: dict[str, torch.Tensor] = {}
        self._lock = threading.Lock()

    def get(self, key: str, packed: Packed) -> torch.Tensor:
        with self._lock:
            if key not in self._packed:
                self._packed[key] = self._pack(packed)
            return self._packed[key]

    def _pack(self, packed: Packed) -> torch.Tensor:
        sources = [torch.tensor(self._constants[name]) if name else None for name in packed.sources]
        tensor: torch.Tensor = resolve(packed.pack)(*sources, **packed.options)
        if packed.precision == "tf32":
            tensor = nearest_tf32(tensor.float())
        return tensor.to(self._device, getattr(torch, packed.dtype)).contiguous()


def resolve(path: str) -> Any:
    """The object a 'module:name' path names."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def nearest_tf32(x: torch.Tensor) -> torch.Tensor:
    """float32 rounded to 10 bits of fraction, as tensor cores multiply it; NaN as it is."""
    return torch.where(x.isnan(), x, ((x.view(torch.int32) + 0x1000) & -0x2000).view(torch.float32))


def as_is(constant: torch.Tensor) -> torch.Tensor:
    """One constant, unchanged."""
    return constant


def joined(*vectors: torch.Tensor | None, sizes: Sequence[int]) -> torch.Tensor:
    """Vectors of the given sizes end to end; an absent one is zeros."""
    return torch.cat([torch.zeros(n) if v is None else v for v, n in zip(vectors, sizes, strict=True)])
