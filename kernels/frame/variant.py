"""What is compiled of a launch, and where it meets Triton: a Variant, its compiling, and values as jit functions take
them. Triton is imported when one of them is needed."""

from __future__ import annotations

import re
from collections import namedtuple
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from optgraph.base.devices import Target
from optgraph.kernels.frame.arguments import Jit

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


@dataclass(frozen=True)
class Block:
    """A tensor that the kernel reads block by block through Hopper's copy engine (TMA), zeros beyond its edges.

    shape, strides (in elements, the last 1): how the kernel sees it. block: what one load fetches; fetched: less of it,
    the first rows of a block, whose sizes are to be powers of two. swizzled: whether it lies in shared memory as wgmma
    wants it, and not row after row; of Gluon kernels.
    """

    tensor: torch.Tensor
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    block: tuple[int, ...]
    fetched: tuple[int, ...] = ()
    swizzled: bool = True


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


def field_names(value: tuple[Any, ...]) -> Sequence[str]:
    """The names of a named tuple's fields; the numbers of another's."""
    return getattr(value, "_fields", None) or [str(i) for i in range(len(value))]


def type_of(value: Any) -> Type:
    """Its type as Triton writes it, of a named tuple field by field; an absent one, or a function, is a constant."""
    if isinstance(value, tuple) and not isinstance(value, Jit):
        return tuple((field, _type(item)) for field, item in zip(field_names(value), value, strict=True))
    return _type(value)


def _type(value: Any) -> str:
    if isinstance(value, Block):
        plain = "" if value.swizzled else ",plain"
        return f"tensordesc<{_TYPES[value.tensor.dtype]}[{', '.join(map(str, value.block))}]{plain}>"
    if isinstance(value, torch.Tensor):
        return "*" + _TYPES[value.dtype]
    if value is None or isinstance(value, Jit):
        return "constexpr"
    if isinstance(value, int):
        return "i32" if -(2**31) <= value < 2**31 else "i64"
    return "fp32"


def compiled(variant: Variant, target: Target) -> Any:
    """Triton's CompiledKernel; needs no GPU, and a process that does not interpret.

    Raises ValueError if the launcher has other arguments than the jit function, or in another order.
    """
    import triton
    from triton.backends.compiler import GPUTarget

    function = variant.code.load()
    names = [name for name, _ in variant.signature]
    if names != list(function.arg_names):
        raise ValueError(
            f"'{variant.kernel}' is launched with {names}, and its jit function takes {function.arg_names}"
        )
    places = {path: place for i, (name, kind) in enumerate(variant.signature) for path, place in _places(i, name, kind)}
    constants = {places[path]: as_given(value) for path, value in variant.constants}
    attributes = {places[path]: [["tt.divisibility", ALIGNMENT]] for path in variant.aligned}
    signature = {name: _named(name, kind) for name, kind in variant.signature}
    source = _source(function, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", target.number, 32), options=variant.options)


def _source(function: Any, signature: dict[str, Any], *more: Any) -> Any:
    """What Triton compiles. In Gluon a tensor read by the copy engine has the layout of its blocks in its type."""
    if not function.is_gluon():
        from triton.compiler import ASTSource

        return ASTSource(function, signature, *more)
    from triton.experimental.gluon._runtime import GluonASTSource
    from triton.experimental.gluon.language import NVMMASharedLayout, bfloat16, float16, int8

    types = {"fp16": float16, "bf16": bfloat16, "i8": int8}
    for name, kind in signature.items():
        found = re.fullmatch(r"(tensordesc<(\w+)\[([\d, ]+)\])(,plain)?>", kind) if isinstance(kind, str) else None
        if found:
            block = [int(size) for size in found[3].split(",")]
            default = NVMMASharedLayout.get_default_for(block, types[found[2]])
            layout = NVMMASharedLayout(0, 16, len(block)) if found[4] else default
            signature[name] = f"{found[1]},{layout!r}>"
    return GluonASTSource(function, signature, *more)


def _places(i: int, name: str, kind: Type) -> list[tuple[str, tuple[int, ...]]]:
    """Where Triton finds each part of argument `i`."""
    if isinstance(kind, str):
        return [(name, (i,))]
    return [(f"{name}.{field}", (i, j)) for j, (field, _) in enumerate(kind)]


def _named(name: str, kind: Type) -> Any:
    """Types as Triton's front end wants them: by their fields, the jit function reads them."""
    if isinstance(kind, str):
        return kind
    fields, types = zip(*kind, strict=True)
    return tuple(types) if fields[0].isdecimal() else namedtuple(name, fields)(*types)


def as_given(value: Any) -> Any:
    """A value as a jit function takes it."""
    if isinstance(value, Jit):
        return value.load()
    if isinstance(value, Block):
        from triton.tools.tensor_descriptor import TensorDescriptor

        return TensorDescriptor(value.tensor, list(value.shape), list(value.strides), list(value.block))
    if isinstance(value, tuple):
        items = list(map(as_given, value))
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value
