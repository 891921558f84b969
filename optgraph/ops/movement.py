"""Elements put into another shape or order, or given a margin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import onnx

from optgraph.base.errors import ModelError, NoKernelError
from optgraph.ir.op import Exporter, Handlers, Importer, Inputs, Node, Op, Outputs, present
from optgraph.ir.values import Dim, Shape, Value, broadcast, reshaped
from optgraph.kernels.pad import PAD
from optgraph.ops import exporting
from optgraph.ops.importing import FOR_INFERENCE, KeepError, axes_of, constant_operand, given, product
from optgraph.plan.lowering import Lowering


@dataclass(frozen=True, kw_only=True)
class Identity(Op):
    """x, under another name."""

    @staticmethod
    def from_onnx(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        if importer.constant(node.input[0]) is not None:
            importer.alias(node.output[0], node.input[0])  # a weight under a second name is that weight, shared
        else:
            importer.add(Identity(), node.input)

    @staticmethod
    def from_dropout(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        if given(node, 2):
            ratio = importer.constant(node.input[1]) if node.input[1] else np.array(0.5)
            training = importer.constant(node.input[2])
            if (training is None or training.any()) and (ratio is None or ratio.any()):
                raise ModelError("dropout in training mode", FOR_INFERENCE)
        if importer.reads(node.output[1:]):  # its mask
            raise KeepError
        importer.add(Identity(), [node.input[0]])

    handlers: ClassVar[Handlers] = {"Identity": from_onnx, "Dropout": from_dropout}

    def export(self, to: Exporter, node: Node) -> None:
        exporting.one_node(to, node, "Identity")

    def compute(self, inputs: Inputs) -> Outputs:
        (x,) = self.per_slot(inputs)
        return (x,)

    def lower(self, context: Lowering, node: Node) -> None:
        context.alias(node.output, context.read(node.inputs[0]))


@dataclass(frozen=True, kw_only=True)
class Expand(Op):
    """x broadcast against `shape`, as in numpy. like: an input with the batch in front, where `shape` has a batch and
    x has none."""

    slots = ("x", "like")
    shape: Shape

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x = present(inputs, 0)
        out = broadcast(x.shape, self.shape)
        missing = {d for d in out if isinstance(d, str)} - set(x.shape)
        like = inputs[1] if len(inputs) > 1 else None
        if missing and (like is None or missing != set(like.shape[:1])):
            raise ModelError(f"cannot expand {list(x.shape)} to {list(self.shape)}")
        return (Value(out, x.dtype),)

    @staticmethod
    def from_onnx(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        target, source = importer.dims(node.input[1]), importer.shape(node.input[0])
        if target is None:
            raise KeepError
        shape = broadcast(source, tuple(target))
        if shape == source:
            importer.add(Identity(), [node.input[0]])
            return
        missing = {d for d in shape if isinstance(d, str)} - set(source)
        names = (info.name for info in importer.model.graph.input if importer.constant(info.name) is None)
        like = next((name for name in names if missing == set(importer.shape(name)[:1])), "") if missing else ""
        importer.add(Expand(shape=tuple(target)), [node.input[0], like] if like else [node.input[0]])

    handlers: ClassVar[Handlers] = {"Expand": from_onnx}

    def export(self, to: Exporter, node: Node) -> None:
        x, like = to.value(node.inputs[0]).shape, node.get("like")
        # A 1 keeps what x has; only the batch of another tensor has to be looked up.
        numbers = [1 if isinstance(d, str) else d for d in self.shape]
        shape = exporting.integers(to, numbers, "shape")
        if like:
            batch = to.emit("Shape", [to.name(like)], start=0, end=1)
            factors = [0 if isinstance(d, str) and d not in x else 1 for d in self.shape]
            where = exporting.integers(to, [i for i, factor in enumerate(factors) if not factor], "where")
            shape = to.emit("ScatterElements", [shape, where, batch])
        to.emit("Expand", [to.name(node.inputs[0]), shape], [to.name(node.output)])

    def compute(self, inputs: Inputs) -> Outputs:
        x, like = self.per_slot(inputs)
        batch = 1 if like is None else like.shape[0]  # 1: x has it
        sizes = tuple(batch if isinstance(d, str) else d for d in self.shape)
        return (x.expand([int(d) for d in broadcast(tuple(x.shape), sizes)]),)


@dataclass(frozen=True, kw_only=True)
class Reshape(Op):
    """Reshape to `shape`: at most one -1 (what is left); a symbol stands for itself."""

    shape: Shape

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x = present(inputs, 0)
        return (Value(reshaped(x.shape, self.shape), x.dtype),)

    @staticmethod
    def from_onnx(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        target = importer.dims(node.input[1]) if len(node.input) > 1 else list(attrs["shape"])
        if target is None:
            raise KeepError
        source = importer.shape(node.input[0])
        resolved: list[Dim] = []
        for i, d in enumerate(target):
            if d == 0 and not attrs.get("allowzero", 0):
                if i >= len(source):
                    raise ModelError(f"reshapes {list(source)} to {target}: there is no dimension {i} to copy")
                d = source[i]
            resolved.append(d)
        importer.add(Reshape(shape=tuple(resolved)), [node.input[0]])

    @staticmethod
    def from_flatten(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        shape = importer.shape(node.input[0])
        axis = int(attrs.get("axis", 1))
        axis += len(shape) if axis < 0 else 0
        front, back = product(shape[:axis]), product(shape[axis:])
        if front is None and back is None:
            raise KeepError
        target = (-1 if front is None else front, -1 if back is None else back)
        importer.add(Reshape(shape=target), [node.input[0]])

    @staticmethod
    def from_squeeze(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        shape = importer.shape(node.input[0])
        axes = axes_of(importer, node, attrs, len(shape))
        if axes is None:
            axes = [i for i, d in enumerate(shape) if d == 1]
        if any(shape[a] != 1 for a in axes):
            raise ModelError(f"squeezes axes {axes} of {list(shape)}, which are not all 1")
        importer.add(Reshape(shape=tuple(d for i, d in enumerate(shape) if i not in axes)), [node.input[0]])

    @staticmethod
    def from_unsqueeze(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        shape = importer.shape(node.input[0])
        count = len(attrs["axes"]) if "axes" in attrs else math.prod(int(d) for d in importer.shape(node.input[1]))
        rank = len(shape) + count
        axes = axes_of(importer, node, attrs, rank) or []
        rest = iter(shape)
        importer.add(Reshape(shape=tuple(1 if i in axes else next(rest) for i in range(rank))), [node.input[0]])

    handlers: ClassVar[Handlers] = {
        "Reshape": from_onnx,
        "Flatten": from_flatten,
        "Squeeze": from_squeeze,
        "Unsqueeze": from_unsqueeze,
    }

    def export(self, to: Exporter, node: Node) -> None:
        source, target = to.value(node.inputs[0]).shape, to.value(node.output).shape
        # 0 copies the dimension at the same place, -1 is what is left.
        numbers = [
            d if isinstance(d, int) else 0 if i < len(source) and source[i] == d else -1 for i, d in enumerate(target)
        ]
        shape = exporting.integers(to, numbers, "shape")
        to.emit("Reshape", [to.name(node.inputs[0]), shape], [to.name(node.output)])

    def compute(self, inputs: Inputs) -> Outputs:
        (x,) = self.per_slot(inputs)
        # A symbol is what is left; where -1 asks for that already, it is the batch, which leads.
        symbol = x.shape[0] if -1 in self.shape else -1
        return (x.reshape([symbol if isinstance(d, str) else d for d in self.shape]),)

    def lower(self, context: Lowering, node: Node) -> None:
        view, shape = context.read(node.inputs[0]), context.shape(node.output)
        kept = [(d, s) for d, s in zip(view.shape, view.strides, strict=True) if d != 1]
        if [d for d, _ in kept] != [d for d in shape if d != 1]:
            raise NoKernelError(f"reshape {list(view.shape)} to {list(shape)} moves data")
        # Only ones come and go. Their stride is never used; the next one's keeps the view regular.
        strides: list[int] = []
        for d in reversed(shape):
            strides.append(kept.pop()[1] if d != 1 else strides[-1] if strides else 1)
        context.alias(node.output, replace(view, shape=shape, strides=tuple(reversed(strides))))


@dataclass(frozen=True, kw_only=True)
class Transpose(Op):
    """Axis i of the output is axis perm[i] of x, as in numpy."""

    perm: tuple[int, ...]

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x = present(inputs, 0)
        if sorted(self.perm) != list(range(len(x.shape))):
            raise ModelError(f"perm {list(self.perm)} does not permute {list(x.shape)}")
        return (Value(tuple(x.shape[p] for p in self.perm), x.dtype),)

    @staticmethod
    def from_onnx(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        rank = len(importer.shape(node.input[0]))
        importer.add(Transpose(perm=tuple(attrs.get("perm", range(rank - 1, -1, -1)))), node.input)

    handlers: ClassVar[Handlers] = {"Transpose": from_onnx}

    def export(self, to: Exporter, node: Node) -> None:
        exporting.one_node(to, node, "Transpose", perm=self.perm)

    def compute(self, inputs: Inputs) -> Outputs:
        (x,) = self.per_slot(inputs)
        return (x.permute(self.perm),)

    def lower(self, context: Lowering, node: Node) -> None:
        context.alias(node.output, context.read(node.inputs[0]).permute(*self.perm))


@dataclass(frozen=True, kw_only=True)
class Pad(Op):
    """Padding with `value`, or in mode 'edge' with the nearest element; `pads` is begins then ends, one of each an
    axis. Negative crops."""

    writes_channels = True
    pads: tuple[int, ...]
    value: float = 0.0
    mode: str = "constant"

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x = present(inputs, 0)
        rank = len(x.shape)
        shape: list[Dim] = []
        for size, before, after in zip(x.shape, self.pads[:rank], self.pads[rank:], strict=True):
            if isinstance(size, str) and (before or after):
                raise ModelError(f"cannot pad the symbolic dimension '{size}'")
            shape.append(size if isinstance(size, str) else size + before + after)
        return (Value(tuple(shape), x.dtype),)

    @staticmethod
    def from_onnx(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        rank = len(importer.shape(node.input[0]))
        mode = attrs.get("mode", "constant")
        if mode not in ("constant", "edge"):
            raise KeepError
        given_pads, fill = constant_operand(importer, node, 1), constant_operand(importer, node, 2)
        pads = list(attrs.get("pads", [])) if given_pads is None else given_pads.tolist()
        value = float(attrs.get("value", 0.0) if fill is None else fill.item())
        axes = importer.dims(node.input[3]) if given(node, 3) else None
        if axes is not None:
            full = [0] * (2 * rank)
            for i, axis in enumerate(axes):
                full[int(axis) % rank], full[int(axis) % rank + rank] = pads[i], pads[i + len(axes)]
            pads = full
        importer.add(Pad(pads=tuple(int(p) for p in pads), value=value, mode=mode), [node.input[0]])

    handlers: ClassVar[Handlers] = {"Pad": from_onnx}

    def export(self, to: Exporter, node: Node) -> None:
        pads = exporting.integers(to, self.pads, "pads")
        value = to.constant(exporting.scalar(self.value, to.value(node.output).dtype), "value")
        to.emit("Pad", [to.name(node.inputs[0]), pads, value], [to.name(node.output)], mode=self.mode)

    def compute(self, inputs: Inputs) -> Outputs:
        import torch
        from torch.nn import functional as F

        (x,) = self.per_slot(inputs)
        pads = self.pads
        if self.mode == "edge":
            for axis, size in enumerate(x.shape):
                nearest = torch.arange(-pads[axis], size + pads[axis + x.ndim], device=x.device).clamp(0, size - 1)
                x = x.index_select(axis, nearest)
            return (x,)
        axes = reversed(range(x.ndim))  # torch counts from the last axis
        return (F.pad(x, [p for axis in axes for p in (pads[axis], pads[axis + x.ndim])], value=self.value),)

    def lower(self, context: Lowering, node: Node) -> None:
        if len(self.pads) != 8 or any(self.pads[i] for i in (0, 1, 4, 5)):
            raise NoKernelError("it pads other axes than height and width")
        x, out = context.read(node.inputs[0]).nhwc, context.write(node.output).nhwc
        options = {"begin": self.pads[2:4], "value": self.value, "edge": self.mode == "edge"}
        context.call(PAD, node, x=x, out=out, **options)


OPS = (Identity, Expand, Reshape, Transpose, Pad)
