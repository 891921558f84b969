"""Normalisation over groups of channels, and over axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx
from onnx import TensorProto

from optgraph.base.errors import ModelError, NoKernelError
from optgraph.ir.op import Exporter, Handlers, Importer, Inputs, Node, Op, Outputs, present
from optgraph.ir.values import Value
from optgraph.kernels.elementwise import ELEMENTWISE
from optgraph.kernels.frame.ends import Prologue
from optgraph.kernels.frame.view import View
from optgraph.kernels.normalise import NORMALISE
from optgraph.ops import exporting
from optgraph.ops.importing import KeepError, axis_of, constant_operand
from optgraph.ops.lines import lines
from optgraph.ops.lowered import copied
from optgraph.plan.lowering import Lowering


@dataclass(frozen=True, kw_only=True)
class GroupNorm(Op):
    """Each of `groups` groups of channels of an image, of any rank, with mean 0 and variance 1; then * scale + b.

    scale, b: [C], one a channel.
    """

    slots = ("x", "scale", "b")
    groups: int
    epsilon: float = 1e-5

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x = present(inputs, 0)
        channels = x.shape[1] if len(x.shape) >= 3 else 0
        if not isinstance(channels, int) or not channels or self.groups < 1 or channels % self.groups:
            raise ModelError(f"{self.groups} groups of the channels of {list(x.shape)}")
        for slot in (1, 2):
            if present(inputs, slot).shape != (channels,):
                raise ModelError(f"{self.slots[slot]} does not have one value a channel of {list(x.shape)}")
        return (x,)

    @staticmethod
    def from_onnx(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        op = GroupNorm(groups=int(attrs["num_groups"]), epsilon=float(attrs.get("epsilon", 1e-5)))
        x, *vectors = node.input
        if importer.opset < 21:  # one scale and bias a group until then
            channels = importer.shape(x)[1]
            for slot in (1, 2):
                vector = constant_operand(importer, node, slot)
                if vector is None or vector.shape != (op.groups,) or not isinstance(channels, int):
                    raise ModelError(f"{op.slots[slot]} does not have one value for each of {op.groups} groups")
                vectors[slot - 1] = importer.add_constant(np.repeat(vector, channels // op.groups), op.slots[slot])
        importer.add(op, [x, *vectors])

    @staticmethod
    def from_instances(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        shape = importer.shape(node.input[0])
        channels = shape[1] if len(shape) >= 3 else 0
        if not isinstance(channels, int) or not channels:
            raise KeepError
        importer.add(GroupNorm(groups=channels, epsilon=float(attrs.get("epsilon", 1e-5))), node.input)

    handlers: ClassVar[Handlers] = {"GroupNormalization": from_onnx, "InstanceNormalization": from_instances}

    def export(self, to: Exporter, node: Node) -> None:
        if to.value(node.inputs[0]).shape[1] == self.groups:
            exporting.one_node(to, node, "InstanceNormalization", epsilon=self.epsilon)
            return
        if to.opset >= 21:
            exporting.one_node(to, node, "GroupNormalization", num_groups=self.groups, epsilon=self.epsilon)
            return
        # Of each group as one channel. Opset 18 had the operator with another scale, and took it back.
        x, scale, b = node.inputs
        value = to.value(x)
        rows = to.emit("Reshape", [to.name(x), exporting.integers(to, (0, self.groups, -1), "groups")])
        one, zero = (to.constant(np.full(self.groups, n, np.dtype(value.dtype)), "unit") for n in (1, 0))
        y = to.emit("InstanceNormalization", [rows, one, zero], epsilon=self.epsilon)
        whole = [0 if isinstance(d, str) else d for d in value.shape]
        y = to.emit("Reshape", [y, exporting.integers(to, whole, "shape")])
        y = to.emit("Mul", [y, exporting.column(to, scale, len(whole))])
        to.bind(node.output, to.emit("Add", [y, exporting.column(to, b, len(whole))]))

    def least_opset(self, source: int) -> int:
        return 21 if source >= 21 else 0

    def compute(self, inputs: Inputs) -> Outputs:
        from torch.nn import functional as F

        x, scale, b = self.per_slot(inputs)
        return (F.group_norm(x, self.groups, scale, b, self.epsilon),)

    def lower(self, context: Lowering, node: Node) -> None:
        """A channel a group is one launch, more are two: a line of the first meets several scales."""
        x, out = context.read(node.inputs[0]), context.write(node.output)
        batch, channels, *sides = x.shape
        pixels = math.prod(sides)
        scale, shift = (context.vector(node.get(slot)) for slot in ("scale", "b"))
        lone = self.groups == channels
        rows = batch, self.groups, channels // self.groups * pixels
        given, made = x.reshaped(rows), out.reshaped(rows) if lone else None
        if given is None:
            copy = context.scratch(node, rows, "rows")
            copied(context, node, x, _seen(copy, x.shape))
            given = copy
        if made is None:
            made = context.scratch(node, rows, "normalised")
        before, after = lines(rows, given, made, (2,), whole=True)
        own = {"scale": scale, "shift": shift, "by_line": True} if lone else {}
        context.call(NORMALISE, node, x=before, out=after, epsilon=self.epsilon, **own)
        if made.base == out.base:
            return
        if lone:
            copied(context, node, _seen(made, x.shape), out)
            return
        if len(sides) != 2:
            raise NoKernelError(f"groups of channels of rank {len(x.shape)}")
        context.call(ELEMENTWISE, node, x=_seen(made, x.shape).nhwc, out=out.nhwc, before=Prologue(scale, shift))


def _seen(rows: View, shape: tuple[int, ...]) -> View:
    """Rows as an image."""
    found = rows.reshaped(shape)
    assert found is not None
    return found


_SMALL = 1e-9  # ONNX's, added to the deviation


@dataclass(frozen=True, kw_only=True)
class MeanVarianceNorm(Op):
    """x with mean 0 and variance 1 over `axes` (not negative): (x - mean) / (deviation + 1e-9)."""

    axes: tuple[int, ...]

    @staticmethod
    def from_onnx(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        rank = len(importer.shape(node.input[0]))
        axes = {axis_of(axis, rank) for axis in attrs.get("axes", (0, 2, 3))}
        importer.add(MeanVarianceNorm(axes=tuple(sorted(axes))), node.input)

    handlers: ClassVar[Handlers] = {"MeanVarianceNormalization": from_onnx}

    def export(self, to: Exporter, node: Node) -> None:
        """ONNX defines it with a float32 number inside, so that only float32 ones are valid."""
        x, dtype = to.name(node.inputs[0]), to.value(node.output).dtype
        if dtype == "float64":
            self._export_double(to, node, x)
            return
        if dtype != "float32":
            x = to.emit("Cast", [x], to=TensorProto.FLOAT)
        y = to.emit("MeanVarianceNormalization", [x], axes=self.axes)
        to.bind(node.output, y if dtype == "float32" else to.emit("Cast", [y], to=exporting.element(dtype)))

    def _export_double(self, to: Exporter, node: Node, x: str) -> None:
        centred = to.emit("Sub", [x, exporting.reduced(to, "ReduceMean", x, self.axes)])
        squares = to.emit("Mul", [centred, centred])
        deviation = to.emit("Sqrt", [exporting.reduced(to, "ReduceMean", squares, self.axes)])
        small = to.constant(exporting.scalar(_SMALL, "float64"), "small")
        to.bind(node.output, to.emit("Div", [centred, to.emit("Add", [deviation, small])]))

    def compute(self, inputs: Inputs) -> Outputs:
        (x,) = self.per_slot(inputs)
        centred = x - x.mean(self.axes, keepdim=True)
        return (centred / ((centred**2).mean(self.axes, keepdim=True).sqrt() + _SMALL),)


OPS = (GroupNorm, MeanVarianceNorm)
