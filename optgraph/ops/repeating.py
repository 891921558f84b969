"""Elements repeated, or dealt out between channels and pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import onnx

from optgraph.base.errors import FIX_INPUT, ModelError
from optgraph.ir.op import Exporter, Handlers, Importer, Inputs, Node, Op, Outputs, fixed, image, present
from optgraph.ir.values import BATCH, Dim, Shape, Value, at, batches, broadcast, per_image
from optgraph.kernels.frame.view import View
from optgraph.ops import exporting
from optgraph.ops.importing import KeepError, constant_operand
from optgraph.ops.lowered import copied
from optgraph.ops.movement import Identity
from optgraph.plan.lowering import Lowering


@dataclass(frozen=True, kw_only=True)
class Expand(Op):
    """x broadcast against `shape`, as in numpy. like: an input with the batch in front, where `shape` has a batch and
    x has none."""

    moves = True
    integers = True
    slots = ("x", "like")
    writes_channels = True
    shape: Shape

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x = present(inputs, 0)
        out = broadcast(x.shape, self.shape)
        like = inputs[1] if len(inputs) > 1 else None
        if self._missing(x.shape) and (like is None or like.shape[:1] != (BATCH,)):
            raise ModelError(f"cannot expand {list(x.shape)} to {list(self.shape)}", FIX_INPUT)
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
        op, inputs = Expand(shape=tuple(target)), [node.input[0]]
        if op._missing(source):
            names = (info.name for info in importer.model.graph.input if importer.constant(info.name) is None)
            inputs += [name for name in names if importer.shape(name)[:1] == (BATCH,)][:1]
        importer.add(op, inputs)

    handlers: ClassVar[Handlers] = {"Expand": from_onnx}

    def export(self, to: Exporter, node: Node) -> None:
        x, like = to.value(node.inputs[0]).shape, node.get("like")
        # A 1 keeps what x has; only the batch of another tensor has to be looked up.
        numbers = [1 if isinstance(d, str) else d for d in self.shape]
        shape = exporting.integers(to, numbers, "shape")
        if like:
            batch = to.emit("Shape", [to.name(like)], start=0, end=1)
            missing = self._missing(x)
            if list(missing.values()) != [1]:
                batch = to.emit("Mul", [batch, exporting.integers(to, list(missing.values()), "factors")])
            shape = to.emit("ScatterElements", [shape, exporting.integers(to, list(missing), "where"), batch])
        to.emit("Expand", [to.name(node.inputs[0]), shape], [to.name(node.output)])

    def compute(self, inputs: Inputs) -> Outputs:
        x, like = self.per_slot(inputs)
        # Without `like`, x has the batch, and a 1 keeps it.
        sizes = tuple(d if isinstance(d, int) else 1 if like is None else at(d, like.shape[0]) for d in self.shape)
        return (x.expand([int(d) for d in broadcast(tuple(x.shape), sizes)]),)

    def lower(self, context: Lowering, node: Node) -> None:
        copied(context, node, context.operand(node.inputs[0]), context.write(node.output))

    def _missing(self, source: Shape) -> dict[int, int]:
        """The axes of `shape` that have the batch where `source` has not, and how many times it."""
        before = len(self.shape) - len(source)
        return {
            i: per_image(d) or 1
            for i, d in enumerate(self.shape)
            if isinstance(d, str) and (i < before or source[i - before] != d)
        }


@dataclass(frozen=True, kw_only=True)
class Tile(Op):
    """x so many times over along each axis."""

    moves = True
    integers = True
    writes_channels = True
    repeats: tuple[int, ...]

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x = present(inputs, 0)
        if len(self.repeats) != len(x.shape) or min(self.repeats, default=1) < 1:
            raise ModelError(f"repeats {list(x.shape)} {list(self.repeats)} times")
        shape = (_times(d, times) for d, times in zip(x.shape, self.repeats, strict=True))
        return (Value(tuple(shape), x.dtype),)

    @staticmethod
    def from_onnx(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        repeats = constant_operand(importer, node, 1)
        if repeats is None or min(repeats.reshape(-1).tolist(), default=1) < 1:
            raise KeepError
        importer.add(Tile(repeats=tuple(int(times) for times in repeats)), [node.input[0]])

    handlers: ClassVar[Handlers] = {"Tile": from_onnx}

    def export(self, to: Exporter, node: Node) -> None:
        repeats = exporting.integers(to, self.repeats, "repeats")
        to.emit("Tile", [to.name(node.inputs[0]), repeats], [to.name(node.output)])

    def compute(self, inputs: Inputs) -> Outputs:
        (x,) = self.per_slot(inputs)
        return (x.repeat(self.repeats),)

    def lower(self, context: Lowering, node: Node) -> None:
        x, out = context.read(node.inputs[0]), context.write(node.output)
        for axis in reversed(range(len(self.repeats))):
            if self.repeats[axis] > 1:
                x, out = _repeated(x, axis, self.repeats[axis]), out.split(axis, x.shape[axis])
        copied(context, node, x, out)


def _times(dim: Dim, times: int) -> Dim:
    factor = per_image(dim)
    return batches(factor * times) if factor else dim if times == 1 else fixed(dim) * times


def _repeated(view: View, axis: int, times: int) -> View:
    """With a new axis before `axis`, along which nothing changes."""
    shape = (*view.shape[:axis], times, *view.shape[axis:])
    return replace(view, shape=shape, strides=(*view.strides[:axis], 0, *view.strides[axis:]))


@dataclass(frozen=True, kw_only=True)
class DepthToSpace(Op):
    """Channels dealt out to blocks of pixels: in `mode` 'DCR' those of one pixel of a block are neighbours, in 'CRD'
    those of one channel of the output."""

    moves = True
    integers = True
    writes_channels = True
    block: int
    mode: str = "DCR"

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x = image(inputs)
        n, c, h, w = x.shape
        if self.block < 1 or fixed(c) % self.block**2:
            raise ModelError(f"{c} channels do not divide into blocks of {self.block} × {self.block} pixels")
        shape = (n, fixed(c) // self.block**2, fixed(h) * self.block, fixed(w) * self.block)
        return (Value(shape, x.dtype),)

    @staticmethod
    def from_onnx(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        importer.add(DepthToSpace(block=int(attrs["blocksize"]), mode=attrs.get("mode", "DCR")), node.input)

    handlers: ClassVar[Handlers] = {"DepthToSpace": from_onnx}

    def export(self, to: Exporter, node: Node) -> None:
        exporting.one_node(to, node, "DepthToSpace", blocksize=self.block, mode=self.mode)

    def compute(self, inputs: Inputs) -> Outputs:
        (x,) = self.per_slot(inputs)
        (n, c, h, w), b = x.shape, self.block
        dealt = (b, b, c // b**2) if self.mode == "DCR" else (c // b**2, b, b)
        return (x.reshape(n, *dealt, h, w).permute(0, *self._order).reshape(n, c // b**2, h * b, w * b),)

    @property
    def _order(self) -> tuple[int, ...]:
        """The axes of the channels dealt out and the pixels, as channels, rows and columns of the output have them."""
        return (3, 4, 1, 5, 2) if self.mode == "DCR" else (1, 4, 2, 5, 3)

    def lower(self, context: Lowering, node: Node) -> None:
        x, out, b = context.read(node.inputs[0]), context.write(node.output), self.block
        channels = out.shape[1]
        dealt = x.split(1, channels).split(1, b) if self.mode == "DCR" else x.split(1, b * b).split(2, b)
        copied(context, node, dealt.permute(0, *self._order), out.split(3, b).split(2, b))


@dataclass(frozen=True, kw_only=True)
class SpaceToDepth(Op):
    """Blocks of pixels dealt out to channels, of which those of one pixel of a block are neighbours."""

    moves = True
    integers = True
    writes_channels = True
    block: int

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x = image(inputs)
        n, c, h, w = x.shape
        if self.block < 1 or fixed(h) % self.block or fixed(w) % self.block:
            raise ModelError(f"{h} × {w} pixels do not divide into blocks of {self.block} × {self.block}")
        shape = (n, fixed(c) * self.block**2, fixed(h) // self.block, fixed(w) // self.block)
        return (Value(shape, x.dtype),)

    @staticmethod
    def from_onnx(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        if attrs.get("mode", "DCR") != "DCR":  # since opset 28
            raise KeepError
        importer.add(SpaceToDepth(block=int(attrs["blocksize"])), node.input)

    handlers: ClassVar[Handlers] = {"SpaceToDepth": from_onnx}

    def export(self, to: Exporter, node: Node) -> None:
        exporting.one_node(to, node, "SpaceToDepth", blocksize=self.block)

    def compute(self, inputs: Inputs) -> Outputs:
        (x,) = self.per_slot(inputs)
        (n, c, h, w), b = x.shape, self.block
        dealt = x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4)
        return (dealt.reshape(n, c * b**2, h // b, w // b),)

    def lower(self, context: Lowering, node: Node) -> None:
        x, out, b = context.read(node.inputs[0]), context.write(node.output), self.block
        dealt = x.split(3, b).split(2, b).permute(0, 3, 5, 1, 2, 4)
        copied(context, node, dealt, out.split(1, x.shape[1]).split(1, b))


OPS = (Expand, Tile, DepthToSpace, SpaceToDepth)
