"""Layers: the kernel calls of a plan, each by itself, with operands of its own.

What `pytest -m gpu` checks and `optgraph tune` times: every layer of a network without the network. Calls are the same
layer if launcher, shapes, strides, types, options and the alignment of their operands agree.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from optgraph.base.errors import OptgraphError
from optgraph.ir.graph import Graph
from optgraph.plan.plan import ITEMSIZE, Call, Packed, Plan, View
from optgraph.plan.weights import resolve

if TYPE_CHECKING:
    from optgraph.kernels.frame.choice import Tile
    from optgraph.kernels.frame.launch import Launch

KERNELS = "optgraph.kernels."
ALIGNMENT = 16  # bytes: what a launcher asks of an operand's address
GUARD = 64  # elements behind an operand that no kernel may touch

# Relative L2 of a kernel against float64, by the coarsest type involved; float32 by the length of its sums.
BOUNDS = {"bfloat16": 1.6e-2, "float16": 2e-3, "tf32": 2e-3}
FP32_BOUND = 1e-6
_REFERENCES = {"global_pool": "global_reference", "softmax": "softmax_reference"}

Bind = Callable[["Launch"], Callable[[], object]]
Slot = View | tuple[View, ...] | None


@dataclass(frozen=True)
class Layer:
    """One kernel call. `operands`: by argument name, views that each have a storage of their own; `outputs` names
    those the kernel writes."""

    kernel: str
    operands: tuple[tuple[str, Slot], ...]
    outputs: tuple[str, ...]
    options: tuple[tuple[str, Any], ...]

    @property
    def name(self) -> str:
        """The launcher's short name."""
        return self.kernel.rpartition(":")[2]

    @property
    def key(self) -> str:
        """Short and the same in every process."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:12]

    def __str__(self) -> str:
        """For people: `conv2d x 8×35×35×192, weight 1×3×3×64×96, out 8×17×17×96, stride (2, 2)`."""
        parts = []
        for name, slot in self.operands:
            views = slot if isinstance(slot, tuple) else (slot,) if slot else ()
            if views and (len(views[0].shape) > 1 or name in self.outputs):
                parts.append(f"{name} {' + '.join('×'.join(map(str, view.shape)) for view in views)}")
        parts += [f"{name} {value}" for name, value in self.options if name in ("kind", "kernel", "stride")]
        return f"{self.name} {', '.join(parts)}"

    def dry(self, target: str, tile: Tile | None = None) -> Launch:
        """Its Launch for 'sm_90', ..., on memory that does not exist: for its variant. Raises as `Operands.launch`."""
        from optgraph.kernels.frame.launch import targeting

        with targeting(target):
            return Operands(self, torch.device("meta")).launch(tile)

    @property
    def terms(self) -> int:
        """How many products or pixels the longest sum of the kernel has."""
        views = [slot for _, slot in self.operands if isinstance(slot, View)]
        weights: list[int] = [
            math.prod(view.shape[:-1]) for view in views if view.base == "weight" and len(view.shape) > 1
        ]
        pooled: list[int] = [math.prod(value) for name, value in self.options if name == "kernel"]
        pixels = [math.prod(view.shape[1:3]) for view in views[:1]] if self.name == "global_pool" else []
        return max([*weights, *pooled, *pixels, 1])

    @property
    def bound(self) -> float:
        """The relative L2 it may be off in float64's eyes."""
        slots = [slot if isinstance(slot, tuple) else (slot,) for _, slot in self.operands if slot]
        types = {view.dtype for views in slots for view in views} | {dict(self.options).get("precision")}
        coarse = [bound for kind, bound in BOUNDS.items() if kind in types]
        return max(coarse, default=FP32_BOUND * math.sqrt(self.terms))


def layers(plan: Plan, graph: Graph) -> Counter[Layer]:
    """The distinct layers of a plan of `graph` and how often each occurs, in the order of the calls.

    Fallbacks are not among them, for they have no kernel.
    """
    shapes = {key: _packed_shape(packed, graph) for key, packed in plan.packed.items()}
    calls = (call for call in plan.calls if call.kernel.startswith(KERNELS))
    return Counter(_layer(call, plan, shapes) for call in calls)


def _packed_shape(packed: Packed, graph: Graph) -> tuple[int, ...]:
    sources = [torch.zeros(()).expand(graph.constants[name].shape) if name else None for name in packed.sources]
    return tuple(resolve(packed.pack)(*sources, **packed.options).shape)


def _layer(call: Call, plan: Plan, shapes: Mapping[str, tuple[int, ...]]) -> Layer:
    operands: dict[str, Slot] = {name: _alone(view) for name, view in call.reads.items()}
    for name, key in call.weights.items():
        operands[name] = _weight(shapes[key], plan.packed[key].dtype) if key else None
    for name, written in call.writes.items():
        operands[name] = tuple(map(_alone, written)) if isinstance(written, tuple) else _alone(written)
    return Layer(call.kernel, tuple(operands.items()), tuple(call.writes), tuple(call.options.items()))


def _weight(shape: tuple[int, ...], dtype: str) -> View:
    strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return View("weight", shape, strides, dtype)


def _alone(view: View) -> View:
    """The view on a storage of its own, its address aligned as it was."""
    return replace(view, base="image", offset=view.offset % (ALIGNMENT // ITEMSIZE[view.dtype]))


class Operands:
    """The tensors of a layer: random inputs, with NaN around them, and outputs that are all NaN.

    On the meta device they have no bytes; then only `launch` makes sense.
    """

    def __init__(self, layer: Layer, device: torch.device, seed: int = 0) -> None:
        self.layer = layer
        self._device = device
        self._random = None if device.type == "meta" else torch.Generator(device).manual_seed(seed)
        self.tensors: dict[str, Any] = {}
        for name, slot in layer.operands:
            views = slot if isinstance(slot, tuple) else (slot,)
            made = tuple(view and self._tensor(view, name in layer.outputs) for view in views)
            self.tensors[name] = made if isinstance(slot, tuple) else made[0]

    def launch(self, tile: Tile | None = None) -> Launch:
        """The launcher's Launch on these tensors, with its scratch memory; `tile` in place of the one it would choose.

        Raises ValueError if the kernel cannot take that tile.
        """
        options = dict(self.layer.options) | ({} if tile is None else {"tile": tile})
        launch: Launch = resolve(self.layer.kernel)(**self.tensors, **options)
        if launch.workspace:
            return launch.with_workspace(torch.zeros(launch.workspace, dtype=torch.uint8, device=self._device))
        return launch

    def expected(self) -> list[torch.Tensor]:
        """What the kernel's reference makes of the inputs, in float64."""
        module, _, name = self.layer.kernel.partition(":")
        reference = resolve(f"{module}:{_REFERENCES.get(name, 'reference')}")
        found = reference(**self.tensors, **dict(self.layer.options))
        return list(found) if isinstance(found, list | tuple) else [found]

    def results(self) -> list[torch.Tensor]:
        found = (self.tensors[name] for name in self.layer.outputs)
        return [tensor for slot in found for tensor in (slot if isinstance(slot, tuple) else (slot,))]

    def poison(self) -> None:
        """Fills the outputs, and what surrounds them, with NaN."""
        for tensor in self.results():
            _storage(tensor).fill_(math.nan)

    def error(self, run: Callable[[], object], expected: list[torch.Tensor] | None = None) -> float:
        """Relative L2 of what `run` leaves in the poisoned outputs, the worst of them.

        Infinite where it left a NaN or an Inf, or wrote outside of an output.
        """
        self.poison()
        run()
        return max(map(_error, self.results(), expected or self.expected()))

    def _tensor(self, view: View, output: bool) -> torch.Tensor:
        dtype = getattr(torch, view.dtype)
        last = sum((size - 1) * stride for size, stride in zip(view.shape, view.strides, strict=True))
        storage = torch.full((view.offset + last + 1 + GUARD,), math.nan, dtype=dtype, device=self._device)
        tensor = storage.as_strided(view.shape, view.strides, view.offset)
        if not output and self._random is not None:
            # Weights of such a scale that sums of products keep the size of their terms.
            scale = math.prod(view.shape[:-1]) ** -0.5 if view.base == "weight" else 1.0
            tensor.copy_(torch.randn(view.shape, generator=self._random, device=self._device) * scale)
        return tensor


def binder(launches: Sequence[Launch], device: torch.device) -> Bind:
    """What makes of a Launch the function that enqueues it, as the runtime does.

    On a GPU the kernels of `launches` are compiled before, on all cores. One that cannot be compiled raises
    OptgraphError when it is bound.
    """
    if device.type != "cuda":
        return lambda launch: launch
    from optgraph.ahead import build, cubins
    from optgraph.run.driver import Kernels

    target = target_of(device)
    variants = {cubins.key(launch.variant, target): launch.variant for launch in launches}
    with suppress(OptgraphError):
        build.build([build.Use(key, variant, target, {}, 0) for key, variant in variants.items()])
    return Kernels(device, ()).bind


def target_of(device: torch.device) -> str:
    """'sm_90', ...: the target of a CUDA device."""
    return "sm_{}{}".format(*torch.cuda.get_device_capability(device))


def _storage(tensor: torch.Tensor) -> torch.Tensor:
    """All of the memory that `tensor` is a view of."""
    return tensor if tensor._base is None else tensor._base


def _error(result: torch.Tensor, expected: torch.Tensor) -> float:
    if int(_storage(result).isfinite().sum()) != result.numel() or not result.isfinite().all():
        return math.inf
    return float((result.double() - expected).norm() / expected.norm())
