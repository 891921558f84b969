"""Where a Launch meets Triton: run by its interpreter or its own launcher, or compiled for a GPU that is not here."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

from optgraph.base.devices import Target
from optgraph.kernels.frame.arguments import Jit
from optgraph.kernels.frame.launch import ALIGNMENT, Block, Launch, Type, Variant


def run(launch: Launch) -> None:
    """Enqueues the launch the way Triton does, compiling it first if need be."""
    arguments = {name: _given(value) for name, value in (*launch.arguments.items(), *launch.constants.items())}
    launch.code.load()[launch.grid](**arguments, **launch.variant.options)


def compiled(variant: Variant, target: Target) -> Any:
    """Triton's CompiledKernel; needs no GPU, and a process that does not interpret.

    Raises ValueError if the launcher has other arguments than the jit function, or in another order.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = variant.code.load()
    names = [name for name, _ in variant.signature]
    if names != list(function.arg_names):
        raise ValueError(
            f"'{variant.kernel}' is launched with {names}, and its jit function takes {function.arg_names}"
        )
    places = {path: place for i, (name, kind) in enumerate(variant.signature) for path, place in _places(i, name, kind)}
    constants = {places[path]: _given(value) for path, value in variant.constants}
    attributes = {places[path]: [["tt.divisibility", ALIGNMENT]] for path in variant.aligned}
    signature = {name: _named(name, kind) for name, kind in variant.signature}
    source = ASTSource(function, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", target.number, 32), options=variant.options)


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


def _given(value: Any) -> Any:
    """A value as a jit function takes it."""
    if isinstance(value, Jit):
        return value.load()
    if isinstance(value, Block):
        from triton.tools.tensor_descriptor import TensorDescriptor

        return TensorDescriptor(value.tensor, list(value.shape), list(value.strides), list(value.block))
    if isinstance(value, tuple):
        items = list(map(_given, value))
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value
