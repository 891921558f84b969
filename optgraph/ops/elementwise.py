"""Arithmetic on each element alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import onnx
from onnx import helper

from optgraph.base.dtypes import torch_dtype
from optgraph.base.errors import ModelError, NoKernelError
from optgraph.ir.op import Exporter, Handlers, Importer, Inputs, Node, Op, Outputs, present
from optgraph.ir.values import IDENTITY, Act, Value, broadcast
from optgraph.kernels.elementwise import ELEMENTWISE
from optgraph.kernels.frame.ends import Prologue
from optgraph.ops import computing, exporting
from optgraph.ops.importing import KeepError, constant_operand, require_floating
from optgraph.ops.lowered import rows
from optgraph.ops.movement import Identity
from optgraph.plan.lowering import Lowering


@dataclass(frozen=True, kw_only=True)
class Affine(Op):
    """act(x * scale + shift), scale and shift of [C] along axis 1."""

    slots = ("x", "scale", "shift")
    writes_channels = True
    act: Act = IDENTITY

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x = present(inputs, 0)
        for slot in (1, 2):
            if len(x.shape) < 2 or present(inputs, slot).shape != (x.shape[1],):
                raise ModelError(f"{self.slots[slot]} does not have one value a channel of {list(x.shape)}")
        return (x,)

    def epilogue_field(self, node: Node) -> str:
        return "act"

    def export(self, to: Exporter, node: Node) -> None:
        x, scale, shift = node.inputs
        to.bind(node.output, exporting.scaled(to, x, scale, shift, self.act))

    def compute(self, inputs: Inputs) -> Outputs:
        x, scale, shift = self.per_slot(inputs)
        return (computing.scaled(x, scale, shift, self.act),)

    def lower(self, context: Lowering, node: Node) -> None:
        x, out = rows(context.read(node.inputs[0])), rows(context.write(node.output))
        pre = Prologue(context.vector(node.get("scale")), context.vector(node.get("shift")), self.act)
        context.call(ELEMENTWISE, node, x=x, out=out, before=pre)


# ONNX operator -> what its Act is called, and the attributes that are its parameters, with their defaults.
_ACTIVATIONS: dict[str, tuple[str, tuple[tuple[str, float], ...]]] = {
    "HardSigmoid": ("hard_sigmoid", (("alpha", 0.2), ("beta", 0.5))),
    "HardSwish": ("hard_swish", ()),
    "LeakyRelu": ("leaky_relu", (("alpha", 0.01),)),
    "Relu": ("relu", ()),
    "Sigmoid": ("sigmoid", ()),
    "Tanh": ("tanh", ()),
}


@dataclass(frozen=True, kw_only=True)
class Activation(Op):
    """act(x)."""

    writes_channels = True
    act: Act

    @staticmethod
    def from_onnx(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        require_floating(importer, node.input[0])
        kind, parameters = _ACTIVATIONS[node.op_type]
        importer.add(Activation(act=Act(kind, *(float(attrs.get(name, d)) for name, d in parameters))), node.input)

    @staticmethod
    def from_clip(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        require_floating(importer, node.input[0])
        bounds = []
        for slot, (name, default) in enumerate((("min", -math.inf), ("max", math.inf)), start=1):
            array = constant_operand(importer, node, slot)
            bounds.append(float(attrs.get(name, default) if array is None else array.item()))
        importer.add(Activation(act=_clip(*bounds)), [node.input[0]])

    @staticmethod
    def from_extremum(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        """Min or Max against one scalar constant is half a Clip."""
        bounds = [(i, importer.constant(name)) for i, name in enumerate(node.input)]
        scalars = [(i, c) for i, c in bounds if c is not None and c.size == 1]
        if len(node.input) != 2 or len(scalars) != 1:
            raise KeepError
        require_floating(importer, node.input[0])
        index, bound = scalars[0]
        other = node.input[1 - index]
        shape = importer.shape(other)
        if broadcast(shape, tuple(bound.shape)) != shape:
            raise KeepError
        value = float(bound.item())
        act = _clip(-math.inf, value) if node.op_type == "Min" else _clip(value, math.inf)
        importer.add(Activation(act=act), [other])

    handlers: ClassVar[Handlers] = {
        **dict.fromkeys(_ACTIVATIONS, from_onnx),
        "Clip": from_clip,
        "Max": from_extremum,
        "Min": from_extremum,
    }

    def export(self, to: Exporter, node: Node) -> None:
        exporting.finish(to, node.output, to.name(node.inputs[0]), self.act)

    def compute(self, inputs: Inputs) -> Outputs:
        (x,) = self.per_slot(inputs)
        return (self.act.apply(x),)

    def lower(self, context: Lowering, node: Node) -> None:
        x, out = rows(context.read(node.inputs[0])), rows(context.write(node.output))
        context.call(ELEMENTWISE, node, x=x, out=out, before=Prologue(act=self.act))


def _clip(low: float, high: float) -> Act:
    """The activation min(max(x, low), high), as Relu where it is that."""
    return Act("relu") if low == 0.0 and high == math.inf else Act("clip", low, high)


@dataclass(frozen=True, kw_only=True)
class Binary(Op):
    """post(x fn y) with numpy broadcasting; fn is 'add', 'sub', 'mul' or 'div'."""

    slots = ("x", "y")
    writes_channels = True
    fn: str
    post: Act = IDENTITY

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x, y = present(inputs, 0), present(inputs, 1)
        return (Value(broadcast(x.shape, y.shape), x.dtype),)

    def epilogue_field(self, node: Node) -> str:
        return "post"

    @staticmethod
    def from_onnx(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        require_floating(importer, node.input[0])
        if "axis" in attrs:
            raise KeepError
        importer.add(Binary(fn=node.op_type.lower()), node.input)

    @staticmethod
    def from_sum(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        require_floating(importer, node.input[0])
        total, *terms = node.input
        if not terms:
            importer.add(Identity(), [total])
        for i, term in enumerate(terms, start=1):
            total = importer.add(Binary(fn="add"), [total, term], None if i == len(terms) else [""])

    handlers: ClassVar[Handlers] = {**dict.fromkeys(("Add", "Div", "Mul", "Sub"), from_onnx), "Sum": from_sum}

    def export(self, to: Exporter, node: Node) -> None:
        y = to.emit(self.fn.capitalize(), [to.name(value) for value in node.inputs])
        exporting.finish(to, node.output, y, self.post)

    def compute(self, inputs: Inputs) -> Outputs:
        import torch

        x, y = self.per_slot(inputs)
        match self.fn:
            case "add":
                out = x + y
            case "sub":
                out = x - y
            case "mul":
                out = x * y
            case "div":
                out = x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")
            case _:
                raise ModelError(f"unknown function '{self.fn}'")
        return (self.post.apply(out),)

    def lower(self, context: Lowering, node: Node) -> None:
        if self.fn not in ("add", "mul"):
            raise NoKernelError(f"no kernel for an elementwise {self.fn}")
        if any(value in context.graph.constants for value in node.inputs):
            raise NoKernelError("an operand is a constant of no per-channel form")
        x, y = node.inputs
        shape = context.shape(node.output)
        if context.shape(x) != shape:
            x, y = y, x
        if context.shape(x) != shape or context.shape(y) not in (shape, (*shape[:2], *(1 for _ in shape[2:]))):
            raise NoKernelError(f"broadcast of {list(context.shape(x))} and {list(context.shape(y))}")
        operands = {"x": rows(context.read(x)), "other": rows(context.read(y))}
        out = rows(context.write(node.output))
        context.call(ELEMENTWISE, node, **operands, out=out, combine=self.fn, post=self.post)


@dataclass(frozen=True, kw_only=True)
class Cast(Op):
    """x as another type of numbers; `to` is its numpy name."""

    to: str

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        return (Value(present(inputs, 0).shape, self.to),)

    @staticmethod
    def from_onnx(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        importer.add(Cast(to=str(helper.tensor_dtype_to_np_dtype(attrs["to"]))), node.input)

    @staticmethod
    def from_cast_like(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        importer.add(Cast(to=importer.dtype(node.input[1])), [node.input[0]])

    handlers: ClassVar[Handlers] = {"Cast": from_onnx, "CastLike": from_cast_like}

    def export(self, to: Exporter, node: Node) -> None:
        exporting.one_node(to, node, "Cast", to=exporting.element(self.to))

    def compute(self, inputs: Inputs) -> Outputs:
        (x,) = self.per_slot(inputs)
        return (x.to(torch_dtype(self.to)),)


OPS = (Affine, Activation, Binary, Cast)
