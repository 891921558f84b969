"""The memory of one plan on one device: the arena, the inputs and the packed weights, and the tensors that views are.

Binding a call to them gives a Launch. That runs nothing: on memory that nobody fills, it tells which kernels a plan
needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from optgraph.plan.plan import ITEMSIZE, Call, Plan, View
from optgraph.plan.weights import Weights, resolve


class Buffers:
    """poison: fill the arena with ones, which is NaN in every float type, so that what a kernel fails to write cannot
    pass for a result; else nothing touches it."""

    def __init__(self, plan: Plan, weights: Weights, device: torch.device, poison: bool = True) -> None:
        self._plan = plan
        self._arena = torch.empty(max(plan.arena_bytes, 1), dtype=torch.uint8, device=device)
        if poison:
            self._arena.fill_(0xFF)
        self.inputs = {
            name: torch.empty(view.shape, dtype=getattr(torch, view.dtype), device=device)
            for name, view in plan.inputs.items()
        }
        self._weights = {key: weights.get(key, packed) for key, packed in plan.packed.items()}

    def view(self, view: View) -> torch.Tensor:
        """The tensor a View stands for."""
        if view.base in self.inputs:
            storage = self.inputs[view.base].view(-1)
            return torch.as_strided(storage, view.shape, view.strides, view.offset)
        item = ITEMSIZE[view.dtype]
        whole = self._arena[: self._arena.numel() // item * item].view(getattr(torch, view.dtype))
        return torch.as_strided(whole, view.shape, view.strides, self._plan.offsets[view.base] // item + view.offset)

    def bind(self, call: Call) -> Callable[[], None]:
        """What runs the call: a Launch, or a plain function for a fallback."""
        tensors: dict[str, Any] = {name: self.view(view) for name, view in call.reads.items()}
        for name, view in call.writes.items():
            tensors[name] = tuple(map(self.view, view)) if isinstance(view, tuple) else self.view(view)
        tensors.update({name: self._weights[key] if key else None for name, key in call.weights.items()})
        launch: Callable[[], None] = resolve(call.kernel)(**tensors, **call.options)
        return launch
