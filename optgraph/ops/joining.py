"""Tensors put together, and parts taken out of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import onnx

from optgraph.base.errors import FIX_INPUT, ModelError
from optgraph.ir.op import Exporter, Handlers, Importer, Inputs, Node, Op, Outputs, fixed, present
from optgraph.ir.quant import Quant
from optgraph.ir.values import BATCH, Dim, Value, batches, per_image
from optgraph.kernels.elementwise import ELEMENTWISE
from optgraph.kernels.frame.view import View
from optgraph.ops import exporting
from optgraph.ops.importing import KeepError, axis_of, constant_operand
from optgraph.ops.lowered import FLOATS, copied, picked
from optgraph.ops.movement import Identity, Reshape
from optgraph.plan.lowering import Lowering

MOST_INDICES = 4096  # of a Gather that is kept as a table
_ALL = 2**31 - 1  # a slice's end from here on is the end of any axis


@dataclass(frozen=True, kw_only=True)
class Concat(Op):
    """Concatenation of any number of inputs along `axis` (not negative).

    in_place: one flag an input, true where its producer writes straight into the output's channels (`place_concat`);
    the others are copied there. Empty: all are.
    """

    integers = True
    axis: int
    in_place: tuple[bool, ...] = ()

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        first = present(inputs, 0)
        sizes: list[Dim] = []
        for value in inputs:
            if value is None or len(value.shape) != len(first.shape):
                raise ModelError("inputs of different rank")
            size = value.shape[self.axis]
            rest = [d for i, d in enumerate(value.shape) if i != self.axis]
            if rest != [d for i, d in enumerate(first.shape) if i != self.axis]:
                raise ModelError(f"cannot join {list(value.shape)} to {list(first.shape)} along axis {self.axis}")
            sizes.append(size)
        return (Value((*first.shape[: self.axis], _total(sizes), *first.shape[self.axis + 1 :]), first.dtype),)

    @staticmethod
    def from_onnx(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        axis = axis_of(int(attrs.get("axis", 1)), len(importer.shape(node.input[0])))
        shapes = [importer.shape(name) for name in node.input]
        open_ends = [isinstance(shape[axis], str) for shape in shapes if axis < len(shape)]
        if any(open_ends) and not all(open_ends):  # a batch and more
            raise KeepError
        importer.add(Concat(axis=axis), node.input)

    handlers: ClassVar[Handlers] = {"Concat": from_onnx}

    def on_grid(self, grids: Sequence[Quant | None], output: int = 0) -> Quant | None:
        return grids[0] if len(set(grids)) == 1 else None

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

    def placed(self, node: Node) -> tuple[str, ...]:
        return tuple(value for value, flag in zip(node.inputs, self.in_place, strict=False) if flag)

    def lower(self, context: Lowering, node: Node) -> None:
        whole = context.write(node.output)
        images = self.axis == 1 and len(whole.shape) == 4 and whole.dtype in FLOATS
        for i, (value, part) in enumerate(zip(node.inputs, self._parts(context, node), strict=True)):
            if self.in_place and self.in_place[i]:
                continue
            if value in context.graph.constants:
                copied(context, node, context.operand(value), part)
            elif images:
                context.call(ELEMENTWISE, node, x=context.moved(value, node.output).nhwc, out=part.nhwc)
            else:
                copied(context, node, context.moved(value, node.output), part)

    def _parts(self, context: Lowering, node: Node) -> list[View]:
        """The places of the output that are each input's."""
        whole, parts, start = context.write(node.output), [], 0
        for value in node.inputs:
            size = context.shape(value)[self.axis]
            parts.append(whole.part(self.axis, start, size))
            start += size
        return parts


@dataclass(frozen=True, kw_only=True)
class Split(Op):
    """Consecutive pieces of the given sizes along `axis` (not negative), one output each."""

    moves = True
    integers = True
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
        array = constant_operand(importer, node, 1)
        sizes = attrs.get("split") if array is None else array.tolist()
        if isinstance(size, str):
            if sizes is not None and size == BATCH:
                whole = sum(sizes)
                remedy = f"fix the batch to {whole} with --input-shape"
                raise ModelError(f"pieces {sizes}, which only a batch of {whole} has", remedy)
            raise KeepError
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

    moves = True
    integers = True
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
                raise ModelError(f"cannot slice the symbolic dimension '{size}'", FIX_INPUT)
            shape[axis] = len(_kept(size, start, end, step))
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
        strides, offset, shape = list(view.strides), view.offset, list(view.shape)
        backwards: dict[int, list[int]] = {}
        for start, end, axis, step in zip(self.starts, self.ends, self.axes, self.steps, strict=True):
            kept = _kept(shape[axis], start, end, step)
            if step < 0 and len(kept) > 1:
                backwards[axis] = list(kept)
                continue
            offset += (kept.start if kept else 0) * view.strides[axis]
            strides[axis], shape[axis] = strides[axis] * abs(step), len(kept)
        sliced = replace(view, shape=tuple(shape), strides=tuple(strides), offset=offset)
        if backwards:
            picked(context, node, sliced, context.write(node.output), backwards)
        else:
            context.alias(node.output, sliced)


def _total(sizes: Sequence[Dim]) -> Dim:
    """The sum. Raises ModelError unless all are numbers or all of the batch."""
    factors = [per_image(d) for d in sizes]
    if all(isinstance(d, int) for d in sizes):
        return sum(int(d) for d in sizes)
    if None in factors:
        raise ModelError(f"cannot join {list(sizes)}, a batch and what is none", FIX_INPUT)
    return batches(sum(filter(None, factors)))


def _within(start: int, end: int, step: int, size: int, axis: int) -> tuple[int, int, int, int]:
    """A slice's fields with all ends within the axis, where exporters write numbers near 2^63 for 'to the end'."""
    if step == 0:
        raise ModelError("a slice with step 0", attribute="steps")
    first, last = (0, size) if step > 0 else (-1, size - 1)
    start, end = (min(max(d + size if d < 0 else d, first), last) for d in (start, end))
    # ONNX starts a step back from the first element at the latest; an end before it is -size - 1, for -1 is the last.
    return max(start, 0), -size - 1 if end < 0 else end, axis, min(max(step, -size - 1), size + 1)


def _kept(size: int, start: int, end: int, step: int) -> range:
    """The positions of an axis that a slice takes."""
    return range(size)[slice(start, end if step > 0 or end >= -size else None, step)]


@dataclass(frozen=True, kw_only=True)
class Gather(Op):
    """The positions `indices` of `axis` (none negative), in that order."""

    moves = True
    integers = True
    axis: int
    indices: tuple[int, ...]

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x = present(inputs, 0)
        size = fixed(x.shape[self.axis])
        if not all(0 <= i < size for i in self.indices):
            raise ModelError(f"gathers beyond the {size} positions of axis {self.axis}")
        return (Value((*x.shape[: self.axis], len(self.indices), *x.shape[self.axis + 1 :]), x.dtype),)

    @staticmethod
    def from_onnx(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        """One whose indices are known, which may be of any shape."""
        shape, array = importer.shape(node.input[0]), constant_operand(importer, node, 1)
        axis = axis_of(int(attrs.get("axis", 0)), len(shape))
        size = shape[axis]
        if (
            array is None
            or isinstance(size, str)
            or array.size > MOST_INDICES
            or importer.constant(node.input[0]) is not None
        ):
            raise KeepError
        indices = tuple(int(i) + size * int(i < 0) for i in array.reshape(-1))
        op = Gather(axis=axis, indices=indices)
        if array.ndim == 1:
            importer.add(op, [node.input[0]])
            return
        y = importer.add(op, [node.input[0]], [""])
        importer.add(Reshape(shape=(*shape[:axis], *array.shape, *shape[axis + 1 :])), [y])

    handlers: ClassVar[Handlers] = {"Gather": from_onnx}

    def export(self, to: Exporter, node: Node) -> None:
        indices = exporting.integers(to, self.indices, "indices")
        to.emit("Gather", [to.name(node.inputs[0]), indices], [to.name(node.output)], axis=self.axis)

    def compute(self, inputs: Inputs) -> Outputs:
        import torch

        (x,) = self.per_slot(inputs)
        return (x.index_select(self.axis, torch.tensor(self.indices, dtype=torch.int64, device=x.device)),)

    def lower(self, context: Lowering, node: Node) -> None:
        view, indices = context.read(node.inputs[0]), self.indices
        step = indices[1] - indices[0] if len(indices) > 1 else 1
        if indices and step > 0 and indices == tuple(range(indices[0], indices[-1] + 1, step)):
            strides, shape = list(view.strides), context.shape(node.output)
            offset = view.offset + indices[0] * strides[self.axis]
            strides[self.axis] *= step
            context.alias(node.output, replace(view, shape=shape, strides=tuple(strides), offset=offset))
        else:
            picked(context, node, view, context.write(node.output), {self.axis: list(indices)})


OPS = (Concat, Split, Slice, Gather)
