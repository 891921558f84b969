"""Elements put into another shape or order, or given a margin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx

from optgraph.base.errors import FIX_INPUT, ModelError, NoKernelError
from optgraph.ir.op import Exporter, Handlers, Importer, Inputs, Node, Op, Outputs, present
from optgraph.ir.quant import Quant
from optgraph.ir.values import Dim, Shape, Value, reshaped, volume
from optgraph.kernels.pad import PAD
from optgraph.ops import exporting
from optgraph.ops.importing import FOR_INFERENCE, KeepError, axes_of, constant_operand, given
from optgraph.ops.lowered import FLOATS, copied, picked, with_rank_4
from optgraph.plan.lowering import Lowering


@dataclass(frozen=True, kw_only=True)
class Identity(Op):
    """x, under another name."""

    moves = True
    integers = True

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
class Reshape(Op):
    """Reshape to `shape`: at most one -1 (what is left); a symbol stands for itself."""

    moves = True
    integers = True
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
        importer.add(Reshape(shape=reshaped(source, tuple(resolved))), [node.input[0]])

    @staticmethod
    def from_flatten(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        shape = importer.shape(node.input[0])
        axis = int(attrs.get("axis", 1))
        axis += len(shape) if axis < 0 else 0
        front, back = volume(shape[:axis]), volume(shape[axis:])
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
        same = view.reshaped(shape)
        if same is not None:
            context.alias(node.output, same)
        else:
            copied(context, node, view, context.write_as(node.output, view.shape))


@dataclass(frozen=True, kw_only=True)
class Transpose(Op):
    """Axis i of the output is axis perm[i] of x, as in numpy."""

    moves = True
    integers = True
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
    """Padding with `value`, or in mode 'edge' with the nearest element, 'reflect' with what lies as far within and
    'wrap' with what lies at the other end; `pads` is begins then ends, one of each an axis. Negative crops."""

    writes_channels = True
    integers = True
    pads: tuple[int, ...]
    value: float = 0.0
    mode: str = "constant"

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x = present(inputs, 0)
        rank = len(x.shape)
        shape: list[Dim] = []
        for size, before, after in zip(x.shape, self.pads[:rank], self.pads[rank:], strict=True):
            if isinstance(size, str) and (before or after):
                raise ModelError(f"cannot pad the symbolic dimension '{size}'", FIX_INPUT)
            shape.append(size if isinstance(size, str) else size + before + after)
        return (Value(tuple(shape), x.dtype),)

    @staticmethod
    def from_onnx(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        rank = len(importer.shape(node.input[0]))
        mode = attrs.get("mode", "constant")
        if mode not in ("constant", "edge", "reflect", "wrap"):
            raise KeepError
        given_pads, fill = constant_operand(importer, node, 1), constant_operand(importer, node, 2)
        pads = attrs.get("pads", attrs.get("paddings", [])) if given_pads is None else given_pads.tolist()
        value = float(attrs.get("value", 0.0) if fill is None else fill.item())
        axes = importer.dims(node.input[3]) if given(node, 3) else None
        if axes is not None:
            full = [0] * (2 * rank)
            for i, axis in enumerate(axes):
                full[int(axis) % rank], full[int(axis) % rank + rank] = pads[i], pads[i + len(axes)]
            pads = full
        shape = importer.shape(node.input[0])
        if any(isinstance(size, str) and (pads[i] or pads[i + rank]) for i, size in enumerate(shape)):
            raise KeepError
        importer.add(Pad(pads=tuple(int(p) for p in pads), value=value, mode=mode), [node.input[0]])

    handlers: ClassVar[Handlers] = {"Pad": from_onnx}

    def on_grid(self, grids: Sequence[Quant | None], output: int = 0) -> Quant | None:
        quant = grids[0]
        stays = quant is not None and (self.mode != "constant" or quant.keeps(self.value))
        return quant if stays else None

    def export(self, to: Exporter, node: Node) -> None:
        pads = exporting.integers(to, self.pads, "pads")
        value = to.constant(exporting.scalar(self.value, to.value(node.output).dtype), "value")
        to.emit("Pad", [to.name(node.inputs[0]), pads, value], [to.name(node.output)], mode=self.mode)

    def compute(self, inputs: Inputs) -> Outputs:
        import torch
        from torch.nn import functional as F

        (x,) = self.per_slot(inputs)
        pads = self.pads
        if self.mode != "constant":
            for axis, size in enumerate(x.shape):
                index = source_positions(self.mode, size, pads[axis], pads[axis + x.ndim])
                x = x.index_select(axis, torch.tensor(index, device=x.device))
            return (x,)
        axes = reversed(range(x.ndim))  # torch counts from the last axis
        return (F.pad(x, [p for axis in axes for p in (pads[axis], pads[axis + x.ndim])], value=self.value),)

    def lower(self, context: Lowering, node: Node) -> None:
        x, out = context.moved(node.inputs[0], node.output), context.write(node.output)
        rank = len(x.shape)
        moved = [axis for axis in range(rank) if self.pads[axis] or self.pads[axis + rank]]
        if self.mode in ("reflect", "wrap"):
            ends = {axis: (self.mode, x.shape[axis], self.pads[axis], self.pads[axis + rank]) for axis in moved}
            picked(context, node, x, out, {axis: source_positions(*end) for axis, end in ends.items()})
            return
        quant = context.quant(node.output)
        if out.dtype not in FLOATS and quant is None:
            raise NoKernelError(f"no kernel pads numbers of type {out.dtype}")
        last = rank - 1 if rank < 4 else 1  # is taken for the channels
        order = [axis for axis in range(rank) if axis != last]
        pads = [0] * (4 - rank) + [self.pads[axis] for axis in (*order, last)]
        if rank > 4 or pads[0] or (rank == 4 and self.pads[order[0] + rank]):
            raise NoKernelError(f"it pads axes {moved} of rank {rank}")
        x, out = (with_rank_4(view.permute(*order, last)) for view in (x, out))
        value = self.value if quant is None else quant.zero + round(self.value / quant.scale)
        options = {"begin": tuple(pads[1:]), "value": value, "edge": self.mode == "edge"}
        context.call(PAD, node, x=x, out=out, **options)


def source_positions(mode: str, size: int, before: int, after: int) -> list[int]:
    """What an axis of `size` has in each place once it is padded."""
    at = np.arange(-before, size + after)
    if mode == "edge":
        return [*map(int, at.clip(0, size - 1))]
    if mode == "wrap":
        return [*map(int, at % size)]
    period = max(2 * (size - 1), 1)
    return [*map(int, size - 1 - np.abs(at % period - (size - 1)))]


OPS = (Identity, Reshape, Transpose, Pad)
