"""A Launch is one kernel call with everything decided: the jit function, grid, arguments, constants and tile.

A launcher (`pointwise(...)`, `pool(...)`) builds it from tensors and runs nothing, so the same object can be run
(`launch()`), replayed from a captured CUDA graph, compiled for a machine that is not here, or asked what it costs.
Neither building nor asking needs Triton; `binding.py` has what does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import torch

from optgraph.base.devices import INTERPRET, Target
from optgraph.kernels.frame.arguments import Jit
from optgraph.kernels.frame.tile import Problem, Tile
from optgraph.kernels.frame.work import Work

ALIGNMENT = 16  # bytes: what a vector access needs

_TYPES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.int16: "i16",
    torch.int32: "i32",
    torch.int64: "i64",
}

_target: ContextVar[Target | None] = ContextVar("target", default=None)


@dataclass(frozen=True)
class Block:
    """A tensor that the kernel reads block by block through Hopper's copy engine (TMA), zeros beyond its edges.

    shape, strides (in elements, the last 1): how the kernel sees it. block: what one load fetches.
    """

    tensor: torch.Tensor
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    block: tuple[int, ...]


Type = str | tuple[tuple[str, str], ...]  # of an argument as Triton writes it; of a named tuple, field by field


@dataclass(frozen=True)
class Variant:
    """What is compiled: a jit function, the type of each argument ('constexpr' if it is a constant), the constants by
    path ('BLOCK_M', 'end.act'), and the pointers that 16 bytes divide. Sizes are run-time arguments: no integer is ever
    specialised, so that a network needs few variants."""

    kernel: str
    code: Jit
    signature: tuple[tuple[str, Type], ...]
    constants: tuple[tuple[str, Any], ...]
    aligned: tuple[str, ...]
    num_warps: int
    num_stages: int

    @property
    def options(self) -> dict[str, int | bool]:
        # Multiply and add as one instruction: Triton 3.10 is to change its default, 3.9 warns of it.
        return {"num_warps": self.num_warps, "num_stages": self.num_stages, "enable_fp_fusion": True}

    @property
    def parameters(self) -> list[tuple[str, str]]:
        """Path and type of what the compiled kernel takes, in order."""
        flat: list[tuple[str, str]] = []
        for name, kind in self.signature:
            flat += [(name, kind)] if isinstance(kind, str) else [(f"{name}.{field}", k) for field, k in kind]
        return [(path, kind) for path, kind in flat if kind != "constexpr"]


@dataclass(frozen=True)
class Launch:
    """One kernel call. Calling it enqueues the kernel.

    kernel:     the name that reports show.
    arguments:  in the order of the jit function: tensors, numbers, named tuples of these; what is None is a constant.
    constants:  its compile-time arguments, which come after them.
    tile:       its blocks, and with how many warps and stages it is compiled.
    work:       what it does; asked by `optgraph.cost`.
    problem:    what the tile was chosen for, if there was a choice: what `optgraph tune` measures.
    workspace:  bytes of scratch memory that it needs beside its arguments (see `with_workspace`).
    """

    kernel: str
    code: Jit
    grid: tuple[int, ...]
    arguments: Mapping[str, Any]
    constants: Mapping[str, Any]
    tile: Tile
    work: Work
    problem: Problem | None = None
    workspace: int = 0

    def __call__(self) -> None:
        from optgraph.kernels.frame.binding import run

        if not self.bound:
            device = next(value.device for value in self.arguments.values() if isinstance(value, torch.Tensor))
            self.with_workspace(torch.zeros(self.workspace, dtype=torch.uint8, device=device))()
            return
        run(self)

    @property
    def programs(self) -> int:
        """How many programs it has."""
        return prod(self.grid)

    def with_workspace(self, workspace: torch.Tensor) -> Launch:
        """The same launch with its scratch memory: uint8, at least `self.workspace` bytes, 16-byte aligned.

        It begins with counters that are zero before and after every launch. Launches that run one after another may
        share it.
        """
        return replace(self, arguments={**self.arguments, "workspace": workspace.view(torch.float32)})

    @property
    def bound(self) -> bool:
        """Whether it has its workspace, or needs none."""
        workspace = self.arguments.get("workspace")
        return not self.workspace or (isinstance(workspace, torch.Tensor) and workspace.numel() > 0)

    def leaves(self) -> Iterator[tuple[str, Any]]:
        """Path and value of every argument, those in named tuples one by one."""
        for name, value in self.arguments.items():
            if isinstance(value, tuple) and not isinstance(value, Jit):
                yield from ((f"{name}.{field}", item) for field, item in zip(_fields(value), value, strict=True))
            else:
                yield name, value

    @cached_property
    def variant(self) -> Variant:
        signature = [(name, _types(value)) for name, value in self.arguments.items()]
        leaves = list(self.leaves())
        return Variant(
            self.kernel,
            self.code,
            (*signature, *((name, "constexpr") for name in self.constants)),
            (*((path, value) for path, value in leaves if _type(value) == "constexpr"), *self.constants.items()),
            tuple(
                path for path, value in leaves if isinstance(value, torch.Tensor) and value.data_ptr() % ALIGNMENT == 0
            ),
            self.tile.num_warps,
            self.tile.num_stages,
        )


def _fields(value: tuple[Any, ...]) -> Sequence[str]:
    """The names of a named tuple's fields; the numbers of another's."""
    return getattr(value, "_fields", None) or [str(i) for i in range(len(value))]


def _types(value: Any) -> Type:
    if isinstance(value, tuple) and not isinstance(value, Jit):
        return tuple((field, _type(item)) for field, item in zip(_fields(value), value, strict=True))
    return _type(value)


def _type(value: Any) -> str:
    """The argument's type as Triton writes it; an absent one, or a function, is a constant."""
    if isinstance(value, Block):
        return f"tensordesc<{_TYPES[value.tensor.dtype]}[{', '.join(map(str, value.block))}]>"
    if isinstance(value, torch.Tensor):
        return "*" + _TYPES[value.dtype]
    if value is None or isinstance(value, Jit):
        return "constexpr"
    if isinstance(value, int):
        return "i32" if -(2**31) <= value < 2**31 else "i64"
    return "fp32"


def describable(tensor: torch.Tensor, strides: Sequence[int]) -> bool:
    """Whether the copy engine can read `tensor` by rows that are `strides` elements apart: all on 16 bytes."""
    item = tensor.element_size()
    return tensor.data_ptr() % ALIGNMENT == 0 and all(stride * item % ALIGNMENT == 0 for stride in strides)


@contextmanager
def targeting(target: Target) -> Iterator[None]:
    """Launchers called inside choose tiles for `target`, wherever their tensors lie."""
    token = _target.set(target)
    try:
        yield
    finally:
        _target.reset(token)


def target_of(x: torch.Tensor) -> Target:
    """What the tile choice depends on: INTERPRET for a CPU tensor, else its GPU. See `targeting`."""
    chosen = _target.get()
    if chosen is not None:
        return chosen
    return INTERPRET if x.device.type == "cpu" else Target(torch.cuda.get_device_capability(x.device))
