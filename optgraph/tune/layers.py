"""Layers: the kernel calls of a plan, each by itself, with operands of its own.

What `pytest -m gpu` checks and `optgraph tune` times: every layer of a network without the network. Calls are the same
layer if kernel, shapes, strides, types, options and the alignment of their operands agree.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch

from optgraph.ahead import build
from optgraph.base.devices import INTERPRET, Target
from optgraph.base.dtypes import ITEMSIZE
from optgraph.base.errors import OptgraphError
from optgraph.ir.graph import Graph
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.launch import Launch, targeting
from optgraph.kernels.frame.sample import IMAGE, WEIGHT, Operands, Sample
from optgraph.kernels.frame.tile import Tile
from optgraph.kernels.frame.tree import mapped
from optgraph.kernels.frame.variant import ALIGNMENT
from optgraph.kernels.frame.view import View
from optgraph.plan.plan import Call, Plan, Weight
from optgraph.plan.weights import Shapes

# Relative L2 of a kernel against float64, by the coarsest type involved; float32 by the length of its sums.
BOUNDS = {"bfloat16": 1.6e-2, "float16": 2e-3, "tf32": 2e-3}
FP32_BOUND = 1e-6
CROSSING = 5  # of integers that come of such numbers, the share that may be off by one, in these bounds

Bind = Callable[[Launch], Callable[[], object]]


class Layer:
    """One kernel call: a kernel and a sample of it. Layers of equal text are equal."""

    def __init__(self, kernel: Kernel, sample: Sample) -> None:
        self.kernel, self.sample = kernel, sample
        self._text = f"{kernel} {dict(sample.arguments)} {sample.outputs}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layer) and (self.kernel, self._text) == (other.kernel, other._text)

    def __hash__(self) -> int:
        return hash(self._text)

    @property
    def name(self) -> str:
        """The kernel's short name."""
        return self.kernel.name

    @property
    def key(self) -> str:
        """Short and the same in every process."""
        return hashlib.sha256(self._text.encode()).hexdigest()[:12]

    def __str__(self) -> str:
        """For people: `conv2d x 8×35×35×192, weight 1×3×3×64×96, out 8×17×17×96, stride (2, 2)`."""
        parts = [
            f"{path} {'×'.join(map(str, view.shape))}"
            for path, view in self.sample.views().items()
            if len(view.shape) > 1
        ]
        arguments = self.sample.arguments
        parts += [f"{name} {arguments[name]}" for name in ("kind", "stride") if name in arguments]
        if "window" in arguments:
            parts.append(f"stride {arguments['window'].stride}")
        return f"{self.name} {', '.join(parts)}"

    def operands(self, device: torch.device, seed: int = 0) -> Operands:
        """Tensors for it."""
        return Operands(self.kernel, self.sample, device, seed)

    def dry(self, target: Target, tile: Tile | None = None) -> Launch:
        """Its Launch on `target`, on memory that does not exist: for what it is, not to be run. Raises as
        `Operands.launch`."""
        with targeting(target):
            return self.operands(torch.device("meta")).launch(tile)

    @cached_property
    def bound(self) -> float:
        """The relative L2 it may be off in float64's eyes; of integers, the share."""
        types = {view.dtype for view in self.sample.views().values()} | {self.sample.arguments.get("precision")}
        coarse = [bound for kind, bound in BOUNDS.items() if kind in types]
        stored = {leaf.dtype for path, leaf in self.sample.views().items() if path.split(".")[0] in self.sample.outputs}
        if coarse and stored == {"int8"}:
            return CROSSING * max(coarse)
        return max(coarse, default=FP32_BOUND * math.sqrt(self.dry(INTERPRET).work.longest_sum))


def layers(plan: Plan, graph: Graph) -> Counter[Layer]:
    """The distinct layers of a plan of `graph` and how often each occurs, in the order of the calls.

    Calls without a reference to judge them by, such as fallbacks, are not among them.
    """
    weights = Shapes(graph.constants)
    return Counter(layer(call, plan, weights) for call in plan.calls if call.kernel.reference is not None)


def layer(call: Call, plan: Plan, weights: Shapes) -> Layer:
    """One call of `plan` by itself. weights: of its graph."""

    def alone(leaf: Any) -> Any:
        """A view on a storage of its own, its address aligned as it was."""
        if isinstance(leaf, Weight):
            packed = plan.packed[leaf.key]
            return View.whole(WEIGHT, tuple(weights.get(leaf.key, packed).shape), packed.dtype)
        if isinstance(leaf, View):
            return replace(leaf, base=IMAGE, offset=leaf.offset % (ALIGNMENT // ITEMSIZE[leaf.dtype]))
        return leaf

    arguments = {name: mapped(tree, alone) for name, tree in call.arguments.items()}
    return Layer(call.kernel, Sample(arguments, call.outputs))


def binder(launches: Sequence[Launch], device: torch.device) -> Bind:
    """What makes of a Launch the function that enqueues it, as the runtime does.

    On a GPU the kernels of `launches` are compiled before, on all cores. One that cannot be compiled raises
    OptgraphError when it is bound.
    """
    if device.type != "cuda":
        return lambda launch: launch
    from optgraph.run.driver import Kernels

    target = target_of(device)
    with suppress(OptgraphError):
        build.compile_all(dict.fromkeys(launch.variant for launch in launches), target)
    return Kernels(device, ()).bind


def target_of(device: torch.device) -> Target:
    """The target of a CUDA device."""
    return Target(torch.cuda.get_device_capability(device))
