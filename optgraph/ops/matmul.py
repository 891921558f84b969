"""Products of matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import onnx

from optgraph.base.errors import ModelError, NoKernelError
from optgraph.ir.op import Exporter, Handlers, Importer, Inputs, Node, Op, Outputs, present
from optgraph.ir.values import Value, broadcast
from optgraph.kernels.frame.view import View
from optgraph.kernels.matmul import MATMUL
from optgraph.ops import exporting
from optgraph.ops.importing import KeepError, require_floating
from optgraph.plan.lowering import Lowering
from optgraph.plan.plan import Weight

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class MatMul(Op):
    """x @ y, the leading axes broadcast as in numpy."""

    slots = ("x", "y")

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x, y = present(inputs, 0), present(inputs, 1)
        if len(x.shape) < 2 or len(y.shape) < 2 or x.shape[-1] != y.shape[-2]:
            raise ModelError(f"cannot multiply {list(x.shape)} by {list(y.shape)}")
        return (Value((*broadcast(x.shape[:-2], y.shape[:-2]), x.shape[-2], y.shape[-1]), x.dtype),)

    @staticmethod
    def from_onnx(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        require_floating(importer, node.input[0])
        if min(len(importer.shape(name)) for name in node.input) < 2:
            raise KeepError
        importer.add(MatMul(), node.input)

    handlers: ClassVar[Handlers] = {"MatMul": from_onnx}

    def export(self, to: Exporter, node: Node) -> None:
        exporting.one_node(to, node, "MatMul")

    def compute(self, inputs: Inputs) -> Outputs:
        x, y = self.per_slot(inputs)
        return (x @ y,)

    def lower(self, context: Lowering, node: Node) -> None:
        """The output lies in the order of its axes, for what follows mostly goes along a row of it."""
        out = context.write_in_order(node.output)
        constants = context.graph.constants
        x, y = (
            View.whole("", context.shape(value), context.storage) if value in constants else context.read(value)
            for value in node.inputs
        )
        *outer, rows = _merged(x, y, out)
        if len(outer) > 2:
            raise NoKernelError(f"{len(outer)} leading axes that do not merge")
        outer = [_Axis(1, 0, 0, 0)] * (2 - len(outer)) + outer

        def operand(value: str, view: View, axes: Sequence[tuple[int, int]]) -> View | Weight:
            shape, strides = zip(*axes, strict=True)
            if value not in constants:
                return View(view.base, shape, strides, view.dtype, view.offset)
            return context.matrix(_reshaped, value, shape=tuple(size if stride else 1 for size, stride in axes))

        depth, columns = zip(y.shape[-2:], y.strides[-2:], strict=True)
        context.call(
            MATMUL,
            node,
            x=operand(node.inputs[0], x, [*((a.size, a.x) for a in (*outer, rows)), (depth[0], x.strides[-1])]),
            y=operand(node.inputs[1], y, [*((a.size, a.y) for a in outer), depth, columns]),
            out=operand(node.output, out, [*((a.size, a.out) for a in (*outer, rows)), (columns[0], out.strides[-1])]),
            precision=context.precision,
        )


@dataclass(frozen=True)
class _Axis:
    """Its size, and the strides along it: 0 where an operand is the same all along."""

    size: int
    x: int
    y: int
    out: int


def _merged(x: View, y: View, out: View) -> list[_Axis]:
    """The leading axes and the rows, neighbours as one where every operand runs through them so. The rows come last."""
    found: list[_Axis] = []
    for i, size in enumerate(out.shape[:-1]):
        rows = i == len(out.shape) - 2
        axis = _Axis(size, _along(x, i, out), 0 if rows else _along(y, i, out), out.strides[i])
        last = found[-1] if found else None
        # A single row is no axis, if there are others that meet the same matrix.
        if size == 1 and (not rows or (last and last.y == 0)):
            continue
        if last and (last.x, last.y, last.out) == (axis.x * size, axis.y * size, axis.out * size):
            found[-1] = _Axis(last.size * size, axis.x, axis.y, axis.out)
        else:
            found.append(axis)
    return found


def _along(view: View, axis: int, out: View) -> int:
    """The stride along an axis of the output, to which the view broadcasts as in numpy."""
    own = axis - (len(out.shape) - len(view.shape))
    return 0 if own < 0 or view.shape[own] == 1 else view.strides[own]


def _reshaped(constant: Tensor, shape: Sequence[int]) -> Tensor:
    return constant.reshape(*shape)


OPS = (MatMul,)
