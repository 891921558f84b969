"""Reductions over whole axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import onnx

from optgraph.base.errors import ModelError
from optgraph.ir.op import Exporter, Handlers, Importer, Inputs, Node, Op, Outputs, image, present
from optgraph.ir.quant import Quant
from optgraph.ir.values import IDENTITY, Act, Value
from optgraph.kernels.elementwise import ELEMENTWISE
from optgraph.kernels.frame.view import View
from optgraph.kernels.global_pool import GLOBAL_POOL
from optgraph.kernels.reduce import REDUCE
from optgraph.ops import computing, exporting
from optgraph.ops.importing import KeepError, axes_of, require_floating
from optgraph.ops.lines import groups, lines
from optgraph.ops.lowered import before
from optgraph.ops.movement import Identity
from optgraph.ops.products import rounds_to
from optgraph.ops.rounding import Rounding, rounded
from optgraph.plan.lowering import Lowering

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class GlobalPool(Rounding):
    """Max or average over H and W, kept as N×C×1×1."""

    slots = ("x", "pre_scale", "pre_shift")
    prologue_field = "pre_act"
    writes_channels = True
    integers = True
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

    def on_grid(self, grids: Sequence[Quant | None], output: int = 0) -> Quant | None:
        moved = self.mode == "max" and not (self.act or self.pre_act or self.quants) and len(grids) == 1
        return grids[0] if moved else super().on_grid(grids, output)

    def export(self, to: Exporter, node: Node) -> None:
        x = exporting.prologue(to, node, self.pre_act)
        if to.value(node.output).dtype == "float64":  # ONNX Runtime has the pools for no doubles
            y = exporting.reduced(to, "ReduceMax" if self.mode == "max" else "ReduceMean", x, (2, 3))
        else:
            y = to.emit("GlobalMaxPool" if self.mode == "max" else "GlobalAveragePool", [x])
        exporting.finish(to, node.output, y, self.act, quants=self.quants)

    def compute(self, inputs: Inputs) -> Outputs:
        x, scale, shift = self.per_slot(inputs)
        x = computing.scaled(x, scale, shift, self.pre_act)
        y = x.amax((2, 3), keepdim=True) if self.mode == "max" else x.mean((2, 3), keepdim=True)
        return (rounded(self.act.apply(y), self.quants),)

    def lower(self, context: Lowering, node: Node) -> None:
        x, out = context.read(node.inputs[0]).nhwc, context.write(node.output).nhwc
        pre = before(context, node, self.pre_act)
        quants = rounds_to(context, node, self.quants)
        context.call(GLOBAL_POOL, node, x=x, out=out, kind=self.mode, before=pre, act=self.act, quants=quants)


@dataclass(frozen=True)
class _Mode:
    """post(kind over the axes of first(x)), as the ONNX operator `onnx`. `kind` is of the kernel."""

    onnx: str
    kind: str
    first: Act = IDENTITY
    post: Act = IDENTITY


_MODES = {
    "mean": _Mode("ReduceMean", "mean"),
    "sum": _Mode("ReduceSum", "sum"),
    "max": _Mode("ReduceMax", "max"),
    "min": _Mode("ReduceMin", "min"),
    "prod": _Mode("ReduceProd", "prod"),
    "l1": _Mode("ReduceL1", "sum", Act("abs")),
    "l2": _Mode("ReduceL2", "sum", Act("power", 2.0), Act("sqrt")),
    "sum_square": _Mode("ReduceSumSquare", "sum", Act("power", 2.0)),
    "log_sum": _Mode("ReduceLogSum", "sum", post=Act("log")),
}
_BY_ONNX = {mode.onnx: name for name, mode in _MODES.items()}


@dataclass(frozen=True, kw_only=True)
class Reduce(Op):
    """`mode` is one of _MODES; axes are not negative."""

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
                if node.op_type not in _PLAIN:
                    raise KeepError
                importer.add(Identity(), [x])
                return
            axes = list(range(rank))
        keep = bool(attrs.get("keepdims", 1))
        importer.add(Reduce(mode=_BY_ONNX[node.op_type], axes=tuple(sorted(axes)), keepdims=keep), [x])

    handlers: ClassVar[Handlers] = dict.fromkeys(_BY_ONNX, from_onnx)

    @property
    def plain(self) -> bool:
        """Whether it returns a single element as it is."""
        return not (_MODES[self.mode].first or _MODES[self.mode].post)

    def export(self, to: Exporter, node: Node) -> None:
        x, out = to.name(node.inputs[0]), to.name(node.output)
        op_type = _MODES[self.mode].onnx
        if not self.axes:  # ONNX would reduce all
            to.emit("Identity", [x], [out])
        elif self.mode == "sum" or to.opset >= 18:
            axes = exporting.integers(to, self.axes, "axes")
            to.emit(op_type, [x, axes], [out], keepdims=int(self.keepdims))
        else:
            to.emit(op_type, [x], [out], axes=self.axes, keepdims=int(self.keepdims))

    def compute(self, inputs: Inputs) -> Outputs:
        (x,) = self.per_slot(inputs)
        if self.mode not in _MODES:
            raise ModelError(f"unknown reduction '{self.mode}'")
        mode = _MODES[self.mode]
        y = mode.first.apply(x)
        if self.axes:  # of none, torch would reduce all
            y = _reduced(y, mode.kind, self.axes, self.keepdims)
        return (mode.post.apply(y),)

    def lower(self, context: Lowering, node: Node) -> None:
        """Axes that do not lie in memory as one are reduced one after the other."""
        x, written = context.read(node.inputs[0]), context.write(node.output)
        whole = tuple(1 if axis in self.axes else size for axis, size in enumerate(x.shape))
        # Images that are left of more axes lie in another order: they are put there afterwards.
        image = len(x.shape) > len(written.shape) == 4
        out = context.scratch(node, whole) if image else self._with_axes(written, whole)
        shape, mode = context.graph.shape(node.inputs[0]), _MODES[self.mode]
        together = groups(shape, x, self.axes) if self.axes else [[]]
        for i, axes in enumerate(together):
            last = i == len(together) - 1
            sizes = tuple(1 if a in axes else d for a, d in enumerate(x.shape))
            target = out if last else context.scratch(node, sizes, f"step{i}", "float32")
            before_it, made = lines(shape, x, target, axes, whole=False)
            ends = {"first": mode.first if i == 0 else IDENTITY, "post": mode.post if last else IDENTITY}
            context.call(REDUCE, node, x=before_it, out=made, kind=mode.kind, **ends)
            shape, x = tuple(1 if a in axes else d for a, d in enumerate(shape)), target
        if image:
            left = [axis for axis in range(len(whole)) if axis not in self.axes]
            sizes, strides = (tuple(of[axis] for axis in left) for of in (out.shape, out.strides))
            context.call(ELEMENTWISE, node, x=replace(out, shape=sizes, strides=strides).nhwc, out=written.nhwc)

    def _with_axes(self, view: View, whole: tuple[int, ...]) -> View:
        """The output with an axis of one element for each that is reduced."""
        if len(view.shape) == len(whole):
            return view
        strides = iter(view.strides)
        return replace(
            view, shape=whole, strides=tuple(0 if a in self.axes else next(strides) for a in range(len(whole)))
        )


_PLAIN = {mode.onnx for mode in _MODES.values() if not (mode.first or mode.post)}


def _reduced(x: Tensor, kind: str, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    match kind:
        case "mean":
            return x.mean(axes, keepdims)
        case "sum":
            return x.sum(axes, keepdims, dtype=x.dtype)
        case "max":
            return x.amax(axes, keepdims)
        case "min":
            return x.amin(axes, keepdims)
        case _:
            for axis in reversed(axes):
                x = x.prod(axis, keepdims, dtype=x.dtype)
            return x


OPS = (GlobalPool, Reduce)
