"""A Launch is one kernel call with everything decided: the jit function, grid, arguments, constants and tile.

A launcher (`pointwise(...)`, `pool(...)`) builds it from tensors and runs nothing, so the same object can be run
(`launch()`), replayed from a captured CUDA graph, compiled for a machine that is not here, or asked what it costs.
Neither building nor asking needs Triton; `variant.py` has what does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any

import torch

from optgraph.base.devices import INTERPRET, Target
from optgraph.kernels.frame.arguments import Jit
from optgraph.kernels.frame.tile import Problem, Tile
from optgraph.kernels.frame.variant import ALIGNMENT, Variant, as_given, field_names, type_of
from optgraph.kernels.frame.work import Work

_target: ContextVar[Target | None] = ContextVar("target", default=None)


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
    otherwise:  makes a launch that does the same, for a machine whose Triton does not compile this one's kernel, and
                for the interpreter.
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
    otherwise: Callable[[], Launch] | None = field(default=None, compare=False)

    def __call__(self) -> None:
        device = next(value.device for value in self.arguments.values() if isinstance(value, torch.Tensor))
        if self.otherwise is not None and device.type == "cpu":  # no interpreter runs Gluon
            self.otherwise()()
            return
        if not self.bound:
            self.with_workspace(torch.zeros(self.workspace, dtype=torch.uint8, device=device))()
            return
        given = {name: as_given(value) for name, value in (*self.arguments.items(), *self.constants.items())}
        self.code.load()[self.grid](**given, **self.variant.options)

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
                yield from ((f"{name}.{field}", item) for field, item in zip(field_names(value), value, strict=True))
            else:
                yield name, value

    @cached_property
    def variant(self) -> Variant:
        signature = [(name, type_of(value)) for name, value in self.arguments.items()]
        leaves = list(self.leaves())
        return Variant(
            self.kernel,
            self.code,
            (*signature, *((name, "constexpr") for name in self.constants)),
            (*((path, value) for path, value in leaves if type_of(value) == "constexpr"), *self.constants.items()),
            tuple(
                path for path, value in leaves if isinstance(value, torch.Tensor) and value.data_ptr() % ALIGNMENT == 0
            ),
            self.tile.num_warps,
            self.tile.num_stages,
        )


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
