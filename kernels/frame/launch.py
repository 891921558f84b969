"""A Launch is one kernel call with everything decided: the jit function, grid, arguments, constants and tile.

A launcher (`pointwise(...)`, `pool(...)`) builds it from tensors and runs nothing, so the same object can be run
(`launch()`), replayed from a captured CUDA graph, or compiled for a machine that is not here. What is compiled is its
`Variant`: types and constants, and no size of any image, so that a network needs few of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

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
_ALIGNMENT = 16  # bytes: what a vector access needs

_target: ContextVar[str | None] = ContextVar("target", default=None)


@dataclass(frozen=True)
class Block:
    """A tensor that the kernel reads block by block through Hopper's copy engine (TMA), zeros beyond its edges.

    shape, strides (in elements, the last 1): how the kernel sees it. block: what one load fetches.
    """

    tensor: torch.Tensor
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    block: tuple[int, ...]


Argument = torch.Tensor | Block | int | float | None


@dataclass(frozen=True)
class Variant:
    """What is compiled: a jit function, the type of each argument ('constexpr' if it is a constant), the constants,
    and the pointers that 16 bytes divide. Sizes are run-time arguments: no integer is ever specialised."""

    kernel: str
    fn: Any
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    aligned: tuple[str, ...]
    num_warps: int
    num_stages: int

    @property
    def options(self) -> dict[str, int | bool]:
        # Multiply and add as one instruction: Triton 3.10 is to change its default, 3.9 warns of it.
        return {"num_warps": self.num_warps, "num_stages": self.num_stages, "enable_fp_fusion": True}

    def compile(self, target: str) -> Any:
        """Triton's CompiledKernel for 'sm_80', 'sm_90', ...; needs no GPU, and a process that does not interpret."""
        from triton.compiler import ASTSource

        index = {name: i for i, name in enumerate(self.fn.arg_names)}
        constants = {(index[name],): value for name, value in self.constants}
        attrs = {(index[name],): [["tt.divisibility", _ALIGNMENT]] for name in self.aligned}
        source = ASTSource(self.fn, dict(self.signature), constants, attrs)
        return triton.compile(source, target=GPUTarget("cuda", int(target[3:]), 32), options=self.options)


@dataclass(frozen=True)
class Launch:
    """One kernel call. Calling it enqueues the kernel; `None` arguments are compile-time absent.

    workspace: bytes of scratch memory that it needs beside its arguments (see `with_workspace`).
    """

    kernel: str
    fn: Any
    grid: tuple[int, ...]
    args: dict[str, Argument]
    constants: dict[str, Any]
    num_warps: int = 4
    num_stages: int = 3
    workspace: int = 0

    def __call__(self) -> None:
        if not self.bound:
            device = next(value.device for value in self.args.values() if isinstance(value, torch.Tensor))
            self.with_workspace(torch.zeros(self.workspace, dtype=torch.uint8, device=device))()
            return
        arguments = {name: _described(value) for name, value in self.args.items()}
        self.fn[self.grid](**arguments, **self.constants, **self.variant.options)

    def with_workspace(self, workspace: torch.Tensor) -> Launch:
        """The same launch with its scratch memory: uint8, at least `self.workspace` bytes, 16-byte aligned.

        It begins with counters that are zero before and after every launch. Launches that run one after another may
        share it.
        """
        return replace(self, args={**self.args, "workspace": workspace.view(torch.float32)})

    @property
    def bound(self) -> bool:
        """Whether it has its workspace, or needs none."""
        workspace = self.args.get("workspace")
        return not self.workspace or (isinstance(workspace, torch.Tensor) and workspace.numel() > 0)

    @cached_property
    def variant(self) -> Variant:
        values = {**self.args, **self.constants}
        signature = tuple((name, "constexpr" if name in self.constants else _type(values[name])) for name in values)
        types = dict(signature)
        ordered = tuple((name, types[name]) for name in self.fn.arg_names)
        return Variant(
            self.kernel,
            self.fn,
            ordered,
            tuple((name, values[name]) for name, kind in ordered if kind == "constexpr"),
            tuple(
                name
                for name, value in self.args.items()
                if isinstance(value, torch.Tensor) and value.data_ptr() % _ALIGNMENT == 0
            ),
            self.num_warps,
            self.num_stages,
        )


def unbound(workspace: int) -> torch.Tensor | None:
    """The `workspace` argument of a launch that has not got its bytes yet; None if it needs none."""
    return torch.empty(0, dtype=torch.float32) if workspace else None


def _type(value: Argument) -> str:
    """The argument's type as Triton writes it; an absent one is a constant."""
    if isinstance(value, Block):
        return f"tensordesc<{_TYPES[value.tensor.dtype]}[{', '.join(map(str, value.block))}]>"
    if isinstance(value, torch.Tensor):
        return "*" + _TYPES[value.dtype]
    if value is None:
        return "constexpr"
    if isinstance(value, int):
        return "i32" if -(2**31) <= value < 2**31 else "i64"
    return "fp32"


def _described(value: Argument) -> Any:
    if not isinstance(value, Block):
        return value
    from triton.tools.tensor_descriptor import TensorDescriptor

    return TensorDescriptor(value.tensor, list(value.shape), list(value.strides), list(value.block))


def describable(tensor: torch.Tensor, strides: Sequence[int]) -> bool:
    """Whether the copy engine can read `tensor` by rows that are `strides` elements apart: all on 16 bytes."""
    item = tensor.element_size()
    return tensor.data_ptr() % _ALIGNMENT == 0 and all(stride * item % _ALIGNMENT == 0 for stride in strides)


@contextmanager
def targeting(target: str) -> Iterator[None]:
    """Launchers called inside choose tiles for `target` ('sm_80', 'sm_90', ...), wherever their tensors lie."""
    token = _target.set(target)
    try:
        yield
    finally:
        _target.reset(token)


def target_of(x: torch.Tensor) -> str:
    """'interpret' for a CPU tensor, else 'sm_<capability>': what the tile choice depends on. See `targeting`."""
    chosen = _target.get()
    if chosen is not None:
        return chosen
    if x.device.type == "cpu":
        return "interpret"
    major, minor = torch.cuda.get_device_capability(x.device)
    return f"sm_{major}{minor}"
