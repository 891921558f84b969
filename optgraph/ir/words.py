"""An operator and the type of a value in words."""

from __future__ import annotations

from dataclasses import fields

from optgraph.ir.op import Op
from optgraph.ir.quant import Quant
from optgraph.ir.values import Act, Segment, Value


def op_text(op: Op) -> str:
    """`Conv[kernel=3×3, act=relu]`: the fields that are not at their defaults, but for those with `repr=False`."""
    shown = []
    for f in fields(op):
        value = getattr(op, f.name)
        if f.repr and value != f.default:
            shown.append(f"{f.name}={_field(value)}")
    return f"{op.kind}[{', '.join(shown)}]" if shown else op.kind


def _field(value: object) -> str:
    if isinstance(value, Act):
        return value.kind if value.a == value.b == 0.0 else f"{value.kind}({value.a:g}, {value.b:g})"
    if isinstance(value, Segment):
        parts = [str(value.channels), *([_field(value.act)] if value.act else []), *map(_field, value.quants)]
        return ":".join(parts)
    if isinstance(value, Quant):
        return f"{value.scale:g}{f'@{value.zero}' if value.zero else ''}"
    if isinstance(value, tuple):
        return "×".join(_field(v) for v in value)
    return str(value)


def type_text(value: Value) -> str:
    """'N×8×12×12', and the dtype where it is another than float32."""
    shape = "×".join(str(d) for d in value.shape)
    return shape if value.dtype == "float32" else f"{shape} {value.dtype}"
