"""All operators in one place: by class name, and by the ONNX operator that each reads."""

from __future__ import annotations

from collections.abc import Iterable

from optgraph.ir.op import Handler, Op
from optgraph.ops import (
    bottleneck,
    conv,
    dense,
    elementwise,
    fused,
    group_norm,
    joining,
    layer_norm,
    matmul,
    movement,
    normalise,
    opaque,
    pool,
    quantised,
    reduction,
    repeating,
    resize,
    transposed,
)


class Registry:
    """Operators that a model may become. Immutable; where two have a name or an ONNX operator in common, the later one
    has it."""

    def __init__(self, ops: Iterable[type[Op]]) -> None:
        self.ops = tuple(ops)
        self._names = {op.__name__: op for op in self.ops}
        self._handlers = {name: handler for op in self.ops for name, handler in op.handlers.items()}

    def extended(self, ops: Iterable[type[Op]]) -> Registry:
        """With operators of one's own."""
        return Registry((*self.ops, *ops))

    def named(self, name: str) -> type[Op] | None:
        """The operator of that class name."""
        return self._names.get(name)

    def handler(self, domain: str, op_type: str) -> Handler | None:
        """What imports an ONNX operator; '' is ONNX's own domain."""
        return self._handlers.get(f"{domain}:{op_type}" if domain else op_type)


OURS = Registry(
    (
        *conv.OPS,
        *transposed.OPS,
        *fused.OPS,
        *bottleneck.OPS,
        *pool.OPS,
        *reduction.OPS,
        *dense.OPS,
        *matmul.OPS,
        *elementwise.OPS,
        *normalise.OPS,
        *group_norm.OPS,
        *layer_norm.OPS,
        *movement.OPS,
        *joining.OPS,
        *repeating.OPS,
        *resize.OPS,
        *quantised.OPS,
        *opaque.OPS,
    )
)
