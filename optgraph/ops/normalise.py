"""Normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import onnx

from optgraph.base.errors import FIX_INPUT, ModelError, NoKernelError
from optgraph.ir.op import Exporter, Handlers, Importer, Inputs, Node, Op, Outputs, present
from optgraph.ir.values import Value, volume
from optgraph.kernels import lrn as kernel
from optgraph.kernels.frame.view import contiguous
from optgraph.kernels.softmax import SOFTMAX
from optgraph.ops import exporting
from optgraph.ops.importing import FOR_INFERENCE, KeepError, axis_of
from optgraph.ops.lines import lines
from optgraph.ops.movement import Reshape
from optgraph.plan.lowering import Lowering


@dataclass(frozen=True, kw_only=True)
class BatchNorm(Op):
    """(x - mean) / sqrt(var + epsilon) * scale + b, as ONNX BatchNormalization at inference."""

    slots = ("x", "scale", "b", "mean", "var")
    epsilon: float = 1e-5

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x = present(inputs, 0)
        for slot in range(1, 5):
            if len(x.shape) < 2 or present(inputs, slot).shape != (x.shape[1],):
                raise ModelError(f"{self.slots[slot]} does not have one value a channel of {list(x.shape)}")
        return (x,)

    @staticmethod
    def from_onnx(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        if attrs.get("training_mode", 0) and all(importer.constant(name) is not None for name in node.input):
            raise KeepError  # weights made ready, as timm's standardised convolutions do: a constant
        if attrs.get("training_mode", 0) or any(node.output[1:]):
            raise ModelError("batch normalization in training mode", FOR_INFERENCE, "training_mode")
        if attrs.get("spatial", 1) != 1:
            reason = "batch normalization with spatial=0: a mean and a variance for each element, not each channel"
            raise ModelError(reason, "export the model anew with a later opset, which has no such form", "spatial")
        importer.add(BatchNorm(epsilon=float(attrs.get("epsilon", 1e-5))), node.input)

    handlers: ClassVar[Handlers] = {"BatchNormalization": from_onnx}

    def export(self, to: Exporter, node: Node) -> None:
        exporting.one_node(to, node, "BatchNormalization", epsilon=self.epsilon)

    def compute(self, inputs: Inputs) -> Outputs:
        from torch.nn import functional as F

        x, scale, b, mean, var = self.per_slot(inputs)
        return (F.batch_norm(x, mean, var, scale, b, eps=self.epsilon),)


@dataclass(frozen=True, kw_only=True)
class LRN(Op):
    """x / (bias + alpha/size * sum of squares over `size` neighbouring channels) ** beta."""

    writes_channels = True
    size: int
    alpha: float = 1e-4
    beta: float = 0.75
    bias: float = 1.0

    @staticmethod
    def from_onnx(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        op = LRN(
            size=int(attrs["size"]),
            alpha=float(attrs.get("alpha", 1e-4)),
            beta=float(attrs.get("beta", 0.75)),
            bias=float(attrs.get("bias", 1.0)),
        )
        importer.add(op, node.input)

    handlers: ClassVar[Handlers] = {"LRN": from_onnx}

    def export(self, to: Exporter, node: Node) -> None:
        exporting.one_node(to, node, "LRN", size=self.size, alpha=self.alpha, beta=self.beta, bias=self.bias)

    def compute(self, inputs: Inputs) -> Outputs:
        from torch.nn import functional as F

        (x,) = self.per_slot(inputs)
        # torch's own pads an even window on the other side than ONNX.
        neighbours = F.pad(x * x, [0, 0] * (x.ndim - 2) + [(self.size - 1) // 2, self.size // 2])
        squares = neighbours.unfold(1, self.size, 1).sum(-1)
        return (x / (self.bias + self.alpha / self.size * squares) ** self.beta,)

    def lower(self, context: Lowering, node: Node) -> None:
        if len(context.shape(node.output)) != 4:
            raise NoKernelError(f"LRN of rank {len(context.shape(node.output))}")
        x, out = context.read(node.inputs[0]).nhwc, context.write(node.output).nhwc
        options = {"size": self.size, "alpha": self.alpha, "beta": self.beta, "bias": self.bias}
        context.call(kernel.LRN, node, x=x, out=out, **options)


@dataclass(frozen=True, kw_only=True)
class Softmax(Op):
    """exp(x) / sum of exp(x) along `axis` (not negative), or the logarithm of that."""

    axis: int
    log: bool = False

    @staticmethod
    def from_onnx(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        log = node.op_type == "LogSoftmax"
        shape = importer.shape(node.input[0])
        axis = axis_of(int(attrs.get("axis", 1 if importer.opset < 13 else -1)), len(shape))
        if importer.opset >= 13 or all(d == 1 for d in shape[axis + 1 :]):
            importer.add(Softmax(axis=axis, log=log), node.input)
            return
        # Before opset 13, softmax ran over all axes from `axis` on, taken as one.
        front, back = volume(shape[:axis]), volume(shape[axis:])
        if front is None or back is None:
            raise KeepError
        rows = importer.add(Reshape(shape=(front, back)), node.input, [""])
        importer.add(Reshape(shape=shape), [importer.add(Softmax(axis=1, log=log), [rows], [""])])

    handlers: ClassVar[Handlers] = {"Softmax": from_onnx, "LogSoftmax": from_onnx}

    def export(self, to: Exporter, node: Node) -> None:
        exporting.one_node(to, node, "LogSoftmax" if self.log else "Softmax", axis=self.axis)

    def compute(self, inputs: Inputs) -> Outputs:
        (x,) = self.per_slot(inputs)
        return (x.log_softmax(self.axis) if self.log else x.softmax(self.axis),)

    def lower(self, context: Lowering, node: Node) -> None:
        shape = context.graph.shape(node.inputs[0])
        # Probabilities stay float32: a user reads them, and there are few.
        few = self.axis == 1 and all(d == 1 for d in shape[2:])
        dtype = "float32" if few or context.graph.is_output(node.output) else None
        x = context.read(node.inputs[0])
        # Scores of attention lie row by row, and go on so.
        rows = dtype is None and self.axis == len(shape) - 1 and x.strides == contiguous(x.shape)
        out = context.write_in_order(node.output) if rows else context.write(node.output, dtype=dtype)
        x, out = lines(shape, x, out, (self.axis,), whole=True)
        context.call(SOFTMAX, node, x=x, out=out, log=self.log)


@dataclass(frozen=True, kw_only=True)
class Hardmax(Op):
    """One at the first largest element along `axis` (not negative), zero elsewhere."""

    axis: int

    @staticmethod
    def from_onnx(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        shape = importer.shape(node.input[0])
        axis = axis_of(int(attrs.get("axis", 1 if importer.opset < 13 else -1)), len(shape))
        if importer.opset >= 13 or all(d == 1 for d in shape[axis + 1 :]):
            importer.add(Hardmax(axis=axis), node.input)
            return
        # Before opset 13 it ran over all axes from `axis` on, taken as one.
        back = volume(shape[axis:])
        if back is None:
            raise ModelError(f"it runs over all of {list(shape)}", FIX_INPUT)
        rows = importer.add(Reshape(shape=(*shape[:axis], back)), node.input, [""])
        importer.add(Reshape(shape=shape), [importer.add(Hardmax(axis=axis), [rows], [""])])

    handlers: ClassVar[Handlers] = {"Hardmax": from_onnx}

    def export(self, to: Exporter, node: Node) -> None:
        exporting.one_node(to, node, "Hardmax", axis=self.axis)

    def compute(self, inputs: Inputs) -> Outputs:
        (x,) = self.per_slot(inputs)
        largest = x == x.amax(self.axis, keepdim=True)
        return ((largest & (largest.cumsum(self.axis) == 1)).to(x.dtype),)


OPS = (BatchNorm, LRN, Softmax, Hardmax)
