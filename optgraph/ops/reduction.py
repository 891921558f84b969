"""Reductions over whole axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import onnx

from optgraph.base.errors import ModelError
from optgraph.ir.op import Exporter, Handlers, Importer, Inputs, Node, Op, Outputs, image, present
from optgraph.ir.values import IDENTITY, Act, Value
from optgraph.kernels.global_pool import GLOBAL_POOL
from optgraph.ops import computing, exporting
from optgraph.ops.importing import KeepError, axes_of, require_floating
from optgraph.ops.lowered import before
from optgraph.ops.movement import Identity
from optgraph.plan.lowering import Lowering


@dataclass(frozen=True, kw_only=True)
class GlobalPool(Op):
    """Max or average over H and W, kept as N×C×1×1."""

    slots = ("x", "pre_scale", "pre_shift")
    prologue_field = "pre_act"
    writes_channels = True
    mode: str
    pre_act: Act = IDENTITY
    act: Act = IDENTITY

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x = image(inputs)
        return (Value((*x.shape[:2], 1, 1), x.dtype),)

    def epilogue_field(self, node: Node) -> str:
        return "act"

    @staticmethod
    def from_onnx(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        if len(importer.shape(node.input[0])) != 4:
            raise KeepError
        importer.add(GlobalPool(mode="max" if node.op_type == "GlobalMaxPool" else "average"), node.input)

    handlers: ClassVar[Handlers] = {"GlobalMaxPool": from_onnx, "GlobalAveragePool": from_onnx}

    def export(self, to: Exporter, node: Node) -> None:
        x = exporting.prologue(to, node, self.pre_act)
        y = to.emit("GlobalMaxPool" if self.mode == "max" else "GlobalAveragePool", [x])
        exporting.finish(to, node.output, y, self.act)

    def compute(self, inputs: Inputs) -> Outputs:
        x, scale, shift = self.per_slot(inputs)
        x = computing.scaled(x, scale, shift, self.pre_act)
        y = x.amax((2, 3), keepdim=True) if self.mode == "max" else x.mean((2, 3), keepdim=True)
        return (self.act.apply(y),)

    def lower(self, context: Lowering, node: Node) -> None:
        x, out = context.read(node.inputs[0]).nhwc, context.write(node.output).nhwc
        pre = before(context, node, self.pre_act)
        context.call(GLOBAL_POOL, node, x=x, out=out, kind=self.mode, before=pre, act=self.act)


@dataclass(frozen=True, kw_only=True)
class Reduce(Op):
    """`mode` is 'mean', 'max', 'min' or 'sum'; axes are not negative."""

    mode: str
    axes: tuple[int, ...]
    keepdims: bool

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x = present(inputs, 0)
        shape = [1 if i in self.axes else d for i, d in enumerate(x.shape) if self.keepdims or i not in self.axes]
        return (Value(tuple(shape), x.dtype),)

    @staticmethod
    def from_onnx(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        x = node.input[0]
        rank = len(importer.shape(x))
        require_floating(importer, x)
        axes = axes_of(importer, node, attrs, rank)
        if not axes:
            if attrs.get("noop_with_empty_axes", 0):
                importer.add(Identity(), [x])
                return
            axes = list(range(rank))
        mode = node.op_type.removeprefix("Reduce").lower()
        keep = bool(attrs.get("keepdims", 1))
        importer.add(Reduce(mode=mode, axes=tuple(sorted(axes)), keepdims=keep), [x])

    handlers: ClassVar[Handlers] = dict.fromkeys(("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"), from_onnx)

    def export(self, to: Exporter, node: Node) -> None:
        x, out = to.name(node.inputs[0]), to.name(node.output)
        op_type = f"Reduce{self.mode.capitalize()}"
        if not self.axes:  # ONNX would reduce all
            to.emit("Identity", [x], [out])
        elif self.mode == "sum" or to.opset >= 18:
            axes = exporting.integers(to, self.axes, "axes")
            to.emit(op_type, [x, axes], [out], keepdims=int(self.keepdims))
        else:
            to.emit(op_type, [x], [out], axes=self.axes, keepdims=int(self.keepdims))

    def compute(self, inputs: Inputs) -> Outputs:
        (x,) = self.per_slot(inputs)
        if not self.axes:  # torch would reduce all
            return (x,)
        match self.mode:
            case "mean":
                return (x.mean(self.axes, self.keepdims),)
            case "sum":
                return (x.sum(self.axes, self.keepdims, dtype=x.dtype),)
            case "max":
                return (x.amax(self.axes, self.keepdims),)
            case "min":
                return (x.amin(self.axes, self.keepdims),)
            case _:
                raise ModelError(f"unknown reduction '{self.mode}'")


OPS = (GlobalPool, Reduce)
