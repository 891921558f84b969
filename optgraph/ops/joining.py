"""Tensors put together, and parts taken out of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import onnx

from optgraph.base.errors import ModelError, NoKernelError
from optgraph.ir.op import Exporter, Handlers, Importer, Inputs, Node, Op, Outputs, present
from optgraph.ir.values import Value
from optgraph.kernels.elementwise import ELEMENTWISE
from optgraph.kernels.frame.view import View
from optgraph.ops import exporting
from optgraph.ops.importing import KeepError, axis_of, constant_operand
from optgraph.ops.movement import Identity
from optgraph.plan.lowering import Lowering

_ALL = 2**31 - 1  # a slice's end from here on is the end of any axis


@dataclass(frozen=True, kw_only=True)
class Concat(Op):
    """Concatenation of any number of inputs along `axis` (not negative).

    in_place: one flag an input, true where its producer writes straight into the output's channels (`place_concat`);
    the others are copied there. Empty: all are.
    """

    axis: int
    in_place: tuple[bool, ...] = ()

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        first = present(inputs, 0)
        total = 0
        for value in inputs:
            if value is None or len(value.shape) != len(first.shape):
                raise ModelError("inputs of different rank")
            size = value.shape[self.axis]
            rest = [d for i, d in enumerate(value.shape) if i != self.axis]
            if not isinstance(size, int) or rest != [d for i, d in enumerate(first.shape) if i != self.axis]:
                raise ModelError(f"cannot join {list(value.shape)} to {list(first.shape)} along axis {self.axis}")
            total += size
        return (Value((*first.shape[: self.axis], total, *first.shape[self.axis + 1 :]), first.dtype),)

    @staticmethod
    def from_onnx(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        axis = axis_of(int(attrs.get("axis", 1)), len(importer.shape(node.input[0])))
        importer.add(Concat(axis=axis), node.input)

    handlers: ClassVar[Handlers] = {"Concat": from_onnx}

    def export(self, to: Exporter, node: Node) -> None:
        exporting.one_node(to, node, "Concat", axis=self.axis)

    def compute(self, inputs: Inputs) -> Outputs:
        import torch

        return (torch.cat(self.per_slot(inputs), self.axis),)

    def place(self, context: Lowering, node: Node) -> None:
        if not any(self.in_place):
            return
        for value, part, in_place in zip(node.inputs, self._parts(context, node), self.in_place, strict=True):
            if in_place:
                context.alias(value, part)

    def lower(self, context: Lowering, node: Node) -> None:
        if self.axis != 1 or len(context.shape(node.output)) != 4:
            raise NoKernelError(f"concat along axis {self.axis} of rank {len(context.shape(node.output))}")
        if any(value in context.graph.constants for value in node.inputs):
            raise NoKernelError("it joins a constant")
        for i, (value, part) in enumerate(zip(node.inputs, self._parts(context, node), strict=True)):
            if not (self.in_place and self.in_place[i]):
                context.call(ELEMENTWISE, node, x=context.read(value).nhwc, out=part.nhwc)

    def _parts(self, context: Lowering, node: Node) -> list[View]:
        """The channels of the output that are each input's."""
        whole, parts, start = context.write(node.output), [], 0
        for value in node.inputs:
            channels = context.shape(value)[1]
            parts.append(whole.part(1, start, channels))
            start += channels
        return parts


@dataclass(frozen=True, kw_only=True)
class Split(Op):
    """Consecutive pieces of the given sizes along `axis` (not negative), one output each."""

    axis: int
    sizes: tuple[int, ...]

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x = present(inputs, 0)
        if sum(self.sizes) != x.shape[self.axis]:
            raise ModelError(f"pieces {list(self.sizes)} of an axis of {x.shape[self.axis]}")
        return tuple(Value((*x.shape[: self.axis], s, *x.shape[self.axis + 1 :]), x.dtype) for s in self.sizes)

    @staticmethod
    def from_onnx(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        shape = importer.shape(node.input[0])
        axis = axis_of(int(attrs.get("axis", 0)), len(shape))
        size, count = shape[axis], len(node.output)
        if isinstance(size, str):
            raise KeepError
        array = constant_operand(importer, node, 1)
        sizes = attrs.get("split") if array is None else array.tolist()
        if sizes is None:
            chunk = math.ceil(size / count)
            sizes = [chunk] * (count - 1) + [size - chunk * (count - 1)]
        if len(sizes) != count:
            raise ModelError(f"{len(sizes)} pieces for {count} outputs")
        importer.add(Split(axis=axis, sizes=tuple(int(s) for s in sizes)), [node.input[0]], node.output)

    handlers: ClassVar[Handlers] = {"Split": from_onnx}

    def export(self, to: Exporter, node: Node) -> None:
        sizes = exporting.integers(to, self.sizes, "sizes")
        to.emit("Split", [to.name(node.inputs[0]), sizes], [to.name(value) for value in node.outputs], axis=self.axis)

    def compute(self, inputs: Inputs) -> Outputs:
        (x,) = self.per_slot(inputs)
        return tuple(x.split(self.sizes, self.axis))

    def lower(self, context: Lowering, node: Node) -> None:
        view, start = context.read(node.inputs[0]), 0
        for value, size in zip(node.outputs, self.sizes, strict=True):
            context.alias(value, view.part(self.axis, start, size))
            start += size


@dataclass(frozen=True, kw_only=True)
class Slice(Op):
    """x[start:stop:step] along each of `axes`, in ONNX's meaning (negative from the end, clamped)."""

    starts: tuple[int, ...]
    ends: tuple[int, ...]
    axes: tuple[int, ...]
    steps: tuple[int, ...]

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x = present(inputs, 0)
        shape = list(x.shape)
        for start, end, axis, step in zip(self.starts, self.ends, self.axes, self.steps, strict=True):
            size = shape[axis]
            if not isinstance(size, int):
                raise ModelError(f"cannot slice the symbolic dimension '{size}'")
            shape[axis] = len(range(size)[slice(start, end if step > 0 or end >= -size else None, step)])
        return (Value(tuple(shape), x.dtype),)

    @staticmethod
    def from_onnx(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        shape = importer.shape(node.input[0])
        fields: list[tuple[int, ...]] = []
        for slot, name in enumerate(("starts", "ends", "axes", "steps"), start=1):
            array = constant_operand(importer, node, slot)
            value = attrs.get(name) if array is None else array.tolist()
            if value is None:
                value = range(len(fields[0])) if name == "axes" else [1] * len(fields[0])
            fields.append(tuple(int(v) for v in value))
        starts, ends, axes, steps = fields
        axes = tuple(axis_of(a, len(shape)) for a in axes)
        kept = []
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            size = shape[axis]
            if isinstance(size, int):
                kept.append(_within(start, end, step, size, axis))
            elif (start, step) != (0, 1) or end < _ALL:
                raise KeepError
        if not kept:
            importer.add(Identity(), [node.input[0]])
            return
        starts, ends, axes, steps = zip(*kept, strict=True)
        importer.add(Slice(starts=starts, ends=ends, axes=axes, steps=steps), [node.input[0]])

    handlers: ClassVar[Handlers] = {"Slice": from_onnx}

    def export(self, to: Exporter, node: Node) -> None:
        fields = {"starts": self.starts, "ends": self.ends, "axes": self.axes, "steps": self.steps}
        vectors = [exporting.integers(to, numbers, name) for name, numbers in fields.items()]
        to.emit("Slice", [to.name(node.inputs[0]), *vectors], [to.name(node.output)])

    def compute(self, inputs: Inputs) -> Outputs:
        import torch

        (x,) = self.per_slot(inputs)
        for start, end, axis, step in zip(self.starts, self.ends, self.axes, self.steps, strict=True):
            kept = range(x.shape[axis])[start:end:step]
            x = x.index_select(axis, torch.tensor(kept, dtype=torch.int64, device=x.device))
        return (x,)

    def lower(self, context: Lowering, node: Node) -> None:
        view = context.read(node.inputs[0])
        if min(self.steps) < 0:
            raise NoKernelError("a slice with a negative step")
        strides, offset = list(view.strides), view.offset
        for start, axis, step in zip(self.starts, self.axes, self.steps, strict=True):
            size = view.shape[axis]
            offset += min(max(start + size if start < 0 else start, 0), size) * view.strides[axis]
            strides[axis] *= step
        sliced = replace(view, shape=context.shape(node.output), strides=tuple(strides), offset=offset)
        context.alias(node.output, sliced)


def _within(start: int, end: int, step: int, size: int, axis: int) -> tuple[int, int, int, int]:
    """A slice's fields with all ends within the axis, where exporters write numbers near 2^63 for 'to the end'."""
    if step == 0:
        raise ModelError("a slice with step 0", attribute="steps")
    first, last = (0, size) if step > 0 else (-1, size - 1)
    start, end = (min(max(d + size if d < 0 else d, first), last) for d in (start, end))
    # ONNX starts a step back from the first element at the latest; an end before it is -size - 1, for -1 is the last.
    return max(start, 0), -size - 1 if end < 0 else end, axis, min(max(step, -size - 1), size + 1)


OPS = (Concat, Split, Slice)
