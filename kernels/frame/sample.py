"""A Sample is one call of a kernel by itself, without a network; Operands are tensors for it, and judge the result.

A kernel declares the samples that it is tried on: a view of type STORED gets the type that a trial is about, so that
one table serves all of them. `window_sample` makes one of a few numbers for any kernel that slides a window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from optgraph.base.dtypes import STORAGE, torch_dtype
from optgraph.ir.values import Window
from optgraph.kernels.frame.ends import Epilogue, Prologue
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.launch import Launch
from optgraph.kernels.frame.tile import Tile
from optgraph.kernels.frame.tree import leaves, mapped
from optgraph.kernels.frame.view import View

IMAGE, WEIGHT = "image", "weight"  # what a view of a sample is on: its own activations, or a constant
STORED = "stored"  # in place of a dtype: what `Sample.typed` makes it
GUARD = 64  # elements behind an operand that no kernel may touch


@dataclass(frozen=True)
class Sample:
    """A launcher's arguments with a View, on a storage of its own, for each tensor. `outputs` names those it writes."""

    arguments: Mapping[str, Any]
    outputs: tuple[str, ...] = ("out",)

    def leaves(self) -> Iterator[tuple[str, Any]]:
        """Every argument by its path, those in tuples, prologues and epilogues one by one."""
        for name, tree in self.arguments.items():
            yield from leaves(name, tree)

    def views(self) -> dict[str, View]:
        """Those that stand for tensors."""
        return {path: leaf for path, leaf in self.leaves() if isinstance(leaf, View)}

    def typed(self, dtype: str) -> Sample:
        """The sample in a dtype of a compile, 'fp32', 'tf32', 'fp16' or 'bf16': STORED becomes what that stores, and
        `precision`, if it is among the arguments, what its products have."""

        def leaf(value: Any) -> Any:
            stored = isinstance(value, View) and value.dtype == STORED
            return replace(value, dtype=STORAGE[dtype]) if stored else value

        arguments = {name: mapped(tree, leaf) for name, tree in self.arguments.items()}
        if "precision" in arguments:
            arguments["precision"] = "tf32" if dtype == "tf32" else "ieee"
        return replace(self, arguments=arguments)


def image(*shape: int, dtype: str = STORED, planes: bool = False, beside: int = 0) -> View:
    """Activations, channels last: [N, H, W, C] or [M, K]. planes: in memory N×C×H×W. beside: so many channels before
    and behind them are no part of them, as in a slice of a concatenation."""
    if planes:
        n, h, w, c = shape
        return View.whole(IMAGE, (n, c, h, w), dtype).nhwc
    *outer, channels = shape
    return View.whole(IMAGE, (*outer, channels + 2 * beside), dtype).part(len(outer), beside, channels)


def weight(*shape: int, dtype: str = STORED) -> View:
    """A packed constant."""
    return View.whole(WEIGHT, shape, dtype)


def vector(channels: int) -> View:
    """A bias, scale, shift or slope."""
    return weight(channels, dtype="float32")


def sums(after: Epilogue, channels: int, *kinds: int) -> Epilogue:
    """What an int8 weight needs besides: start and scale. kinds: of pixels (see `conv2d`), if they are told apart."""
    return replace(after, start=weight(*kinds, channels, dtype="int32"), scale=vector(channels))


def prologue(wanted: Prologue, channels: int) -> Prologue:
    """The same with vectors that fit for a scale and a shift that are True."""
    return replace(
        wanted,
        scale=vector(channels) if wanted.scale else None,
        shift=vector(channels) if wanted.shift else None,
    )


def epilogue(wanted: Epilogue, *shape: int) -> Epilogue:
    """The same with operands that fit an output of `shape` for a bias and a residual that are True, and slopes if one
    is a PRelu. The residual's rows are longer than those of any output here."""
    stored = "int8" if wanted.residual_quant else STORED
    return replace(
        wanted,
        bias=vector(shape[-1]) if wanted.bias else None,
        residual=image(*shape, dtype=stored, beside=16) if wanted.residual else None,
        slope=vector(shape[-1]) if wanted.act.sloped or wanted.post.sloped else None,
    )


def window_sample(
    shape: tuple[int, int, int, int],
    columns: int,
    window: Window,
    *,
    x: View | None = None,
    before: Prologue = Prologue(),
    after: Epilogue = Epilogue(bias=True),
    stored: str = STORED,
    **arguments: Any,
) -> Sample:
    """A call of a kernel that makes `columns` channels of what `window` sees of x, [N, H, W, C].

    before, after: True where they are to have an operand. arguments: what else the launcher takes; the output is a
    slice of a wider buffer, of the type `stored`.
    """
    height, width = window.over(*shape[1:3])
    made = shape[0], int(height), int(width), columns
    return Sample(
        {
            "x": x or image(*shape),
            **arguments,
            "out": image(*made, dtype=stored, beside=16 if stored == "int8" else 8),
            "window": window,
            "before": prologue(before, shape[3]),
            "after": epilogue(after, *made),
        }
    )


class Operands:
    """The tensors of a sample: random inputs, with NaN around them, and outputs that are all NaN.

    On the meta device they have no bytes; then only `launch` makes sense.
    """

    def __init__(self, kernel: Kernel, sample: Sample, device: torch.device, seed: int = 0) -> None:
        self.kernel, self.sample = kernel, sample
        self._device = device
        self._random = None if device.type == "meta" else torch.Generator(device).manual_seed(seed)
        self.arguments = {name: self._tensors(name, tree) for name, tree in sample.arguments.items()}

    def launch(self, tile: Tile | None = None) -> Launch:
        """The launcher's Launch on these tensors, with its scratch memory; `tile` in place of the one it would choose.

        Raises ValueError if the kernel cannot take that tile.
        """
        arguments = self.arguments if tile is None else {**self.arguments, "tile": tile}
        launch: Launch = self.kernel.launcher(**arguments)
        if launch.workspace:
            return launch.with_workspace(torch.zeros(launch.workspace, dtype=torch.uint8, device=self._device))
        return launch

    def expected(self) -> list[torch.Tensor]:
        """What the kernel's reference makes of the inputs, in float64."""
        assert self.kernel.reference is not None
        found = self.kernel.reference(**{name: value for name, value in self.arguments.items() if name != "tile"})
        return list(found) if isinstance(found, list | tuple) else [found]

    def results(self) -> list[torch.Tensor]:
        found = (self.arguments[name] for name in self.sample.outputs)
        return [tensor for slot in found for tensor in (slot if isinstance(slot, tuple) else (slot,))]

    def poison(self) -> None:
        """Fills the outputs, and what surrounds them, with NaN, or integers that are none of theirs."""
        for tensor in self.results():
            _storage(tensor).fill_(_poison(tensor.dtype))

    def error(self, run: Callable[[], object], expected: list[torch.Tensor] | None = None) -> float:
        """Relative L2 of what `run` leaves in the poisoned outputs, the worst of them; of integers, the share that
        differs.

        Infinite where it left a NaN or an Inf, or an integer off by more than one, or wrote outside of an output.
        """
        self.poison()
        run()
        return max(map(_error, self.results(), expected or self.expected()))

    def _tensors(self, name: str, tree: Any) -> Any:
        output = name in self.sample.outputs
        return mapped(tree, lambda leaf: self._tensor(leaf, output) if isinstance(leaf, View) else leaf)

    def _tensor(self, view: View, output: bool) -> torch.Tensor:
        dtype = torch_dtype(view.dtype)
        last = sum((size - 1) * stride for size, stride in zip(view.shape, view.strides, strict=True))
        storage = torch.full((view.offset + last + 1 + GUARD,), _poison(dtype), dtype=dtype, device=self._device)
        tensor = storage.as_strided(view.shape, view.strides, view.offset)
        if not output and self._random is not None:
            # Weights of such a scale that sums of products keep the size of their terms.
            scale = math.prod(view.shape[:-1]) ** -0.5 if view.base == WEIGHT else 1.0
            once = tensor[tuple(slice(1 if stride == 0 else None) for stride in view.strides)]
            if dtype.is_floating_point:
                once.copy_(torch.randn(once.shape, generator=self._random, device=self._device) * scale)
            else:
                most = 128 if view.base == IMAGE else 32 if dtype == torch.int8 else 20_000
                once.copy_(torch.randint(-most, most, once.shape, generator=self._random, device=self._device))
        return tensor


def _storage(tensor: torch.Tensor) -> torch.Tensor:
    """All of the memory that `tensor` is a view of."""
    return tensor if tensor._base is None else tensor._base


def _poison(dtype: torch.dtype) -> float:
    return math.nan if dtype.is_floating_point else 85


def _error(result: torch.Tensor, expected: torch.Tensor) -> float:
    if not result.dtype.is_floating_point:
        return _share(result, expected)
    if int(_storage(result).isfinite().sum()) != result.numel() or not result.isfinite().all():
        return math.inf
    return float((result.double() - expected).norm() / expected.norm())


def _share(result: torch.Tensor, expected: torch.Tensor) -> float:
    """Of integers that are off, by one."""
    own = torch.zeros_like(_storage(result), dtype=torch.bool)
    own.as_strided(result.shape, result.stride(), result.storage_offset()).fill_(True)
    off = (result.double() - expected).abs()
    if off.max() > 1 or not (_storage(result)[~own] == _poison(result.dtype)).all():
        return math.inf
    return float((off > 0).double().mean())
