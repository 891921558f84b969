"""Fully connected layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import onnx

from optgraph.base.errors import ModelError, NoKernelError
from optgraph.base.in_range import out_of_range, overflow, stored
from optgraph.ir.op import (
    Exporter,
    Handlers,
    Importer,
    Inputs,
    Node,
    Outputs,
    check_slope,
    check_vector,
    fixed,
    present,
)
from optgraph.ir.values import IDENTITY, Act, Value
from optgraph.kernels import dense
from optgraph.kernels.dense import DENSE
from optgraph.kernels.frame.ends import Epilogue, Prologue
from optgraph.kernels.frame.view import View, contiguous
from optgraph.ops import computing, exporting
from optgraph.ops.importing import KeepError, given, require_floating
from optgraph.ops.products import Products, pack_dense, rounds_to
from optgraph.ops.rounding import Rounding, rounded
from optgraph.plan.lowering import Lowering


@dataclass(frozen=True, kw_only=True)
class Gemm(Rounding):
    """act(x @ w.T + b): x is [M, K], or images [M, C, H, W] of K = C·H·W elements each (`flatten`); w is [N, K]. slope:
    of a PRelu."""

    slots = ("x", "w", "b", "slope")
    integers = True
    act: Act = IDENTITY

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x, w = present(inputs, 0), present(inputs, 1)
        if len(x.shape) not in (2, 4) or len(w.shape) != 2 or math.prod(map(fixed, x.shape[1:])) != w.shape[1]:
            raise ModelError(f"cannot multiply {list(x.shape)} by the transpose of {list(w.shape)}")
        check_vector(inputs, 2, w.shape[0])
        check_slope(self, inputs, w.shape[0], self.act)
        return (Value((x.shape[0], w.shape[0]), x.dtype),)

    def epilogue_field(self, node: Node) -> str:
        return "act"

    @staticmethod
    def from_onnx(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        if attrs.get("transA", 0):
            raise KeepError
        require_floating(importer, node.input[0])
        weight = _weight(importer, node.input[1], float(attrs.get("alpha", 1.0)), bool(attrs.get("transB", 0)))
        inputs = [node.input[0], weight]
        if given(node, 2):
            columns = importer.shape(weight)[0]
            if not isinstance(columns, int):
                raise KeepError
            inputs.append(_bias(importer, node.input[2], float(attrs.get("beta", 1.0)), columns))
        importer.add(Gemm(), inputs)

    handlers: ClassVar[Handlers] = {"Gemm": from_onnx}

    def export(self, to: Exporter, node: Node) -> None:
        x, w, b = (to.name(node.get(slot)) for slot in ("x", "w", "b"))
        if len(to.value(node.inputs[0]).shape) == 4:
            x = to.emit("Flatten", [x])
        y = to.emit("Gemm", [x, w, b], transB=1)
        exporting.finish(to, node.output, y, self.act, node.get("slope"), self.quants)

    def compute(self, inputs: Inputs) -> Outputs:
        x, w, b, slope = self.per_slot(inputs)
        y = x.flatten(1) @ w.T
        return (rounded(computing.activated(y if b is None else y + b, self.act, slope), self.quants),)

    def lower(self, context: Lowering, node: Node) -> None:
        x, image = _flat(context.read(node.inputs[0]))
        w = context.constant(node, "w")
        pre = Prologue(quant=context.quant(node.inputs[0]))
        product = Products(context, node.inputs[0], pre, w)
        end = product.after(Epilogue())
        context.call(
            DENSE,
            node,
            x=x,
            weight=product.weight(pack_dense, dense.pack, **image),
            bias=context.vector(node.get("b")),
            # Logits stay float32: a softmax or a user reads them, and there are few.
            out=context.write(node.output, None if context.quant(node.output) else "float32"),
            act=self.act,
            slope=context.vector(node.get("slope")),
            quants=rounds_to(context, node, self.quants),
            start=end.start,
            scale=end.scale,
            before=pre,
            precision=context.precision,
        )


def _weight(importer: Importer, name: str, alpha: float, transposed: bool) -> str:
    """The weight times `alpha`, as [N, K]."""
    if alpha == 1.0 and transposed:
        return name
    weight = importer.constant(name)
    if weight is None:
        raise KeepError
    weight = weight if transposed else weight.T
    scaled = weight if alpha == 1.0 else weight.astype(np.float64) * alpha
    if out_of_range(scaled, weight.dtype):
        raise KeepError
    grid = importer.grid(name) if alpha == 1.0 else None
    turned = grid.permuted((1, 0)) if grid and not transposed else grid
    return importer.add_constant(np.asarray(stored(scaled, weight.dtype), order="C"), name, turned)


def _bias(importer: Importer, name: str, beta: float, columns: int) -> str:
    """The bias times `beta`, as [N]."""
    array = importer.constant(name)
    if array is None:
        if beta != 1.0 or importer.shape(name) != (columns,):
            raise KeepError
        return name
    if array.shape not in ((), (1,), (1, 1), (columns,), (1, columns)):
        raise KeepError
    if beta == 1.0 and array.shape == (columns,):
        return name
    row = np.broadcast_to(array.reshape(-1).astype(np.float64) * beta, (columns,))
    if overflow(row, array.dtype):
        raise KeepError
    return importer.add_constant(stored(row, array.dtype), name)


OPS = (Gemm,)


def _flat(view: View) -> tuple[View, dict[str, Any]]:
    """A view of [M, K] or M images as rows, and what the weight's packing must know of the order in a row."""
    if len(view.shape) == 2:
        return view, {}
    m, c, h, w = view.shape
    row = replace(view, shape=(m, c * h * w), strides=(view.strides[0], 1))
    if view.strides[1:] == contiguous(view.shape[1:]):
        return row, {}
    if view.strides[1:] != (1, w * c, c):
        raise NoKernelError(f"images of strides {list(view.strides)} do not lie in one piece")
    return row, {"image": (c, h, w)}
