"""The memory of one plan on one device: the arena, the inputs and the packed weights, and the tensors that views are.

Binding a call to them gives a Launch. That runs nothing: on memory that does not exist, it tells what a plan launches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from optgraph.base.dtypes import ITEMSIZE, torch_dtype
from optgraph.kernels.frame.launch import Launch, targeting
from optgraph.kernels.frame.tree import mapped
from optgraph.kernels.frame.view import View
from optgraph.plan.plan import Call, Plan, Weight
from optgraph.plan.weights import Shapes, Weights


class Buffers:
    """poison: fill the arena with ones, which is NaN in every float type, so that what a kernel fails to write cannot
    pass for a result; else nothing touches it."""

    def __init__(self, plan: Plan, weights: Weights, device: torch.device, poison: bool = True) -> None:
        self._plan = plan
        self._arena = torch.empty(max(plan.arena_bytes, 1), dtype=torch.uint8, device=device)
        if poison:
            self._arena.fill_(0xFF)
        self.inputs = {
            name: torch.empty(view.shape, dtype=torch_dtype(view.dtype), device=device)
            for name, view in plan.inputs.items()
        }
        self._weights = {key: weights.get(key, packed) for key, packed in plan.packed.items()}

    def view(self, view: View) -> torch.Tensor:
        """The tensor a View stands for."""
        if view.base in self.inputs:
            storage = self.inputs[view.base].view(-1)
            return torch.as_strided(storage, view.shape, view.strides, view.offset)
        item = ITEMSIZE[view.dtype]
        whole = self._arena[: self._arena.numel() // item * item].view(torch_dtype(view.dtype))
        return torch.as_strided(whole, view.shape, view.strides, self._plan.offsets[view.base] // item + view.offset)

    def output(self, public: str) -> torch.Tensor:
        """An output of the plan."""
        tensor: torch.Tensor = self._given(self._plan.outputs[public])
        return tensor

    def bind(self, call: Call) -> Callable[[], None]:
        """What runs the call, as the plan's target wants it: a Launch, or a plain function for a fallback."""
        arguments = {name: mapped(tree, self._given) for name, tree in call.arguments.items()}
        with targeting(self._plan.target):
            launch: Callable[[], None] = call.kernel.launcher(**arguments)
        return launch

    def _given(self, leaf: Any) -> Any:
        if isinstance(leaf, View):
            return self.view(leaf)
        return self._weights[leaf.key] if isinstance(leaf, Weight) else leaf


def dry_launches(plan: Plan, weights: Shapes) -> list[Launch | None]:
    """The Launch of each call of `plan` on memory that does not exist, to be looked at; None for a fallback."""
    buffers = Buffers(plan, weights, torch.device("meta"), poison=False)
    bound = map(buffers.bind, plan.calls)
    return [launch if isinstance(launch, Launch) else None for launch in bound]
