"""A Launch is one kernel call with everything decided: the jit function, grid, arguments, constants and tile.

A launcher (`pointwise(...)`, `pool(...)`) builds it from tensors and runs nothing, so the same object can be run
(`launch()`), replayed from a captured CUDA graph, or compiled for a machine that is not here (`launch.compile`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

_POINTER = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


@dataclass(frozen=True)
class Launch:
    """One kernel call. Calling it enqueues the kernel; `None` arguments are compile-time absent."""

    kernel: str
    fn: Any
    grid: tuple[int, ...]
    args: dict[str, torch.Tensor | int | float | None]
    constants: dict[str, Any]
    num_warps: int = 4
    num_stages: int = 3

    def __call__(self) -> None:
        self.fn[self.grid](**self.args, **self.constants, **self.options)

    @property
    def options(self) -> dict[str, int | bool]:
        # Multiply and add as one instruction: Triton 3.10 is to change its default, 3.9 warns of it.
        return {"num_warps": self.num_warps, "num_stages": self.num_stages, "enable_fp_fusion": True}

    def compile(self, capability: int) -> Any:
        """Compiles for `sm_<capability>` (80, 90, ...) with no GPU; returns Triton's CompiledKernel.

        Specialises as the JIT would: a pointer or integer that 16 divides is marked so, an integer 1 is constant.
        """
        from triton.compiler import ASTSource

        signature: dict[str, str] = {}
        constants: dict[tuple[int, ...], Any] = {}
        attrs: dict[tuple[int, ...], list[list[Any]]] = {}
        for i, name in enumerate(self.fn.arg_names):
            value = self.constants[name] if name in self.constants else self.args[name]
            if name in self.constants or value is None or (isinstance(value, int) and value == 1):
                signature[name] = "constexpr"
                constants[(i,)] = value
            elif isinstance(value, torch.Tensor):
                signature[name] = _POINTER[value.dtype]
                if value.data_ptr() % 16 == 0:
                    attrs[(i,)] = [["tt.divisibility", 16]]
            elif isinstance(value, int):
                signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
                if value % 16 == 0:
                    attrs[(i,)] = [["tt.divisibility", 16]]
            else:
                signature[name] = "fp32"
        source = ASTSource(self.fn, signature, constants, attrs)
        return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=self.options)


def target_of(x: torch.Tensor) -> str:
    """'interpret' for a CPU tensor, else 'sm_<capability>': what the tile choice depends on."""
    if x.device.type == "cpu":
        return "interpret"
    major, minor = torch.cuda.get_device_capability(x.device)
    return f"sm_{major}{minor}"
