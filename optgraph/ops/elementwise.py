"""Arithmetic on each element alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import onnx
from onnx import TensorProto, helper

from optgraph.base.dtypes import torch_dtype
from optgraph.base.errors import ModelError, NoKernelError
from optgraph.ir.op import Exporter, Handlers, Importer, Inputs, Node, Op, Outputs, present
from optgraph.ir.quant import Quant
from optgraph.ir.values import IDENTITY, Act, Value, broadcast
from optgraph.kernels.elementwise import COMBINE, ELEMENTWISE
from optgraph.kernels.frame.ends import Prologue
from optgraph.ops import computing, exporting
from optgraph.ops.elements import by_channel, elements
from optgraph.ops.importing import KeepError, axis_of, constant_operand, require_floating
from optgraph.ops.movement import Identity, Reshape
from optgraph.ops.products import rounds_to
from optgraph.ops.rounding import Rounding, rounded
from optgraph.plan.lowering import Lowering


@dataclass(frozen=True, kw_only=True)
class Affine(Rounding):
    """act(x * scale + shift), scale and shift of [C] along axis 1."""

    slots = ("x", "scale", "shift")
    writes_channels = True
    integers = True
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
        y = exporting.scaled(to, x, scale, shift, self.act)
        exporting.finish(to, node.output, y, IDENTITY, quants=self.quants)

    def compute(self, inputs: Inputs) -> Outputs:
        x, scale, shift = self.per_slot(inputs)
        return (rounded(computing.scaled(x, scale, shift, self.act), self.quants),)

    def lower(self, context: Lowering, node: Node) -> None:
        rank = len(context.shape(node.output))
        if rank not in (2, 4):
            raise NoKernelError(f"an affine map of rank {rank}")
        (x,), out = by_channel(context, node, node.inputs[0])
        scale, shift = context.vector(node.get("scale")), context.vector(node.get("shift"))
        pre = Prologue(scale, shift, self.act, context.quant(node.inputs[0]))
        context.call(ELEMENTWISE, node, x=x, out=out, before=pre, quants=rounds_to(context, node, self.quants))


# ONNX operator -> what its Act is called, and the attributes that are its parameters, with their defaults.
_ACTIVATIONS: dict[str, tuple[str, tuple[tuple[str, float], ...]]] = {
    **{name: (name.lower(), ()) for name in ("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign", "Mish")},
    **{name: (name.lower(), ()) for name in ("Abs", "Neg", "Sqrt", "Reciprocal", "Exp", "Log", "Erf", "Sin", "Cos")},
    **{name: (name.lower(), ()) for name in ("Sign", "Floor", "Ceil", "Round")},
    "Celu": ("celu", (("alpha", 1.0),)),
    "Elu": ("elu", (("alpha", 1.0), ("", 1.0))),
    "HardSigmoid": ("hard_sigmoid", (("alpha", 0.2), ("beta", 0.5))),
    "HardSwish": ("hard_swish", ()),
    "LeakyRelu": ("leaky_relu", (("alpha", 0.01),)),
    "ThresholdedRelu": ("threshold", (("alpha", 1.0),)),
}


@dataclass(frozen=True, kw_only=True)
class Activation(Rounding):
    """act(x)."""

    writes_channels = True
    integers = True
    act: Act

    def on_grid(self, grids: Sequence[Quant | None], output: int = 0) -> Quant | None:
        """What cuts at numbers of a grid stays on it."""
        (quant,) = grids
        stays = not self.quants and quant is not None and cuts_on(self.act, quant)
        return quant if stays else super().on_grid(grids, output)

    @staticmethod
    def from_onnx(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        require_floating(importer, node.input[0])
        kind, parameters = _ACTIVATIONS[node.op_type]
        importer.add(Activation(act=Act(kind, *(float(attrs.get(name, d)) for name, d in parameters))), node.input)

    @staticmethod
    def from_selu(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        require_floating(importer, node.input[0])
        alpha, gamma = float(attrs.get("alpha", 1.6732631921768188)), float(attrs.get("gamma", 1.0507010221481323))
        importer.add(Activation(act=Act("elu", alpha * gamma, gamma)), node.input)

    @staticmethod
    def from_gelu(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        require_floating(importer, node.input[0])
        kind = {"none": "gelu", "tanh": "gelu_tanh"}[attrs.get("approximate", "none")]
        importer.add(Activation(act=Act(kind)), node.input)

    @staticmethod
    def from_clip(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        require_floating(importer, node.input[0])
        bounds = []
        for slot, (name, default) in enumerate((("min", -math.inf), ("max", math.inf)), start=1):
            array = constant_operand(importer, node, slot)
            bounds.append(float(attrs.get(name, default) if array is None else array.item()))
        importer.add(Activation(act=_clip(*bounds)), [node.input[0]])

    handlers: ClassVar[Handlers] = {
        **dict.fromkeys(_ACTIVATIONS, from_onnx),
        "Selu": from_selu,
        "Gelu": from_gelu,
        "Clip": from_clip,
    }

    def export(self, to: Exporter, node: Node) -> None:
        exporting.finish(to, node.output, to.name(node.inputs[0]), self.act, quants=self.quants)

    def compute(self, inputs: Inputs) -> Outputs:
        (x,) = self.per_slot(inputs)
        return (rounded(self.act.apply(x), self.quants),)

    def lower(self, context: Lowering, node: Node) -> None:
        (x,), out = elements(context, node, node.inputs[0])
        pre = Prologue(act=self.act, quant=context.quant(node.inputs[0]))
        context.call(ELEMENTWISE, node, x=x, out=out, before=pre, quants=rounds_to(context, node, self.quants))


def cuts_on(act: Act, quant: Quant) -> bool:
    """Whether `act` limits numbers, and by such as lie on the grid."""
    bounds = {"relu": (0.0,), "clip": (act.a, act.b)}.get(act.kind)
    return bounds is not None and all(bound in (-math.inf, math.inf) or quant.keeps(bound) for bound in bounds)


def _clip(low: float, high: float) -> Act:
    """The activation min(max(x, low), high), as Relu where it is that. Of crossed bounds, all is the upper one."""
    low = min(low, high)
    return Act("relu") if low == 0.0 and high == math.inf else Act("clip", low, high)


def _scalar(importer: Importer, name: str, other: str) -> float | None:
    """The number that the constant `name` is, if it is one and does not add axes to `other`."""
    array = importer.constant(name)
    if array is None or array.size != 1 or array.ndim > len(importer.shape(other)):
        return None
    return float(array.item())


def _bounded(importer: Importer, fn: str, x: str, y: str) -> tuple[Op, list[str]] | None:
    """The extremum of a value and one number is half a Clip."""
    for value, bound in ((x, y), (y, x)):
        number = _scalar(importer, bound, value) if fn in ("min", "max") else None
        if number is not None and importer.constant(value) is None:
            low, high = (-math.inf, number) if fn == "min" else (number, math.inf)
            return Activation(act=_clip(low, high)), [value]
    return None


# What a Binary does -> the ONNX operator that it is.
_FUNCTIONS = {
    **{fn: fn.capitalize() for fn in ("add", "sub", "mul", "div", "min", "max", "pow")},
    "prelu": "PRelu",
}


@dataclass(frozen=True, kw_only=True)
class Binary(Rounding):
    """post(x fn y) with numpy broadcasting; fn is 'add', 'sub', 'mul', 'div', 'min', 'max', 'pow' or 'prelu', which
    is x where that is not negative, and y * x else."""

    slots = ("x", "y")
    writes_channels = True
    integers = True
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
        x, y = node.input
        if "axis" in attrs:  # until opset 7: where in x the axes of y begin
            rank, shape = len(importer.shape(x)), importer.shape(y)
            shape = (*shape, *[1] * (rank - axis_of(int(attrs["axis"]), rank) - len(shape)))
            array = importer.constant(y)
            if array is None:
                y = importer.add(Reshape(shape=shape), [y], [""])
            else:
                y = importer.add_constant(array.reshape([int(d) for d in shape]), y)
        importer.add(Binary(fn=node.op_type.lower()), [x, y])

    @staticmethod
    def from_many(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        """Sum, Min or Max of any number."""
        require_floating(importer, node.input[0])
        fn = {"Sum": "add", "Min": "min", "Max": "max"}[node.op_type]
        total, *terms = node.input
        if not terms:
            importer.add(Identity(), [total])
        for i, term in enumerate(terms, start=1):
            op, inputs = _bounded(importer, fn, total, term) or (Binary(fn=fn), [total, term])
            total = importer.add(op, inputs, None if i == len(terms) else [""])

    @staticmethod
    def from_pow(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        x, y = node.input
        require_floating(importer, x)
        exponent = _scalar(importer, y, x)
        if exponent is not None and importer.constant(x) is None:
            act = {0.5: Act("sqrt"), -1.0: Act("reciprocal")}.get(exponent, Act("power", exponent))
            importer.add(Identity() if exponent == 1.0 else Activation(act=act), [x])
            return
        if importer.dtype(y) != importer.dtype(x):  # an exponent may be an integer
            array = importer.constant(y)
            if array is None:
                raise KeepError
            y = importer.add_constant(array.astype(importer.dtype(x)), y)
        importer.add(Binary(fn="pow"), [x, y])

    @staticmethod
    def from_prelu(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        """One slope for all is a leaky ReLU."""
        x, slope = node.input
        require_floating(importer, x)
        shape, array = importer.shape(x), importer.constant(slope)
        if importer.opset < 7 and array is not None and array.ndim == 1 and array.size > 1:  # one a channel
            array = array.reshape(-1, *[1] * (len(shape) - 2))
            slope = importer.add_constant(array, slope)
        if broadcast(shape, importer.shape(slope)) != shape:
            raise ModelError(f"slopes of shape {list(importer.shape(slope))} for {list(shape)}")
        if array is not None and array.size and (array == array.flat[0]).all():
            importer.add(Activation(act=Act("leaky_relu", float(array.flat[0]))), [x])
        else:
            importer.add(Binary(fn="prelu"), [x, slope])

    handlers: ClassVar[Handlers] = {
        **dict.fromkeys(("Add", "Div", "Mul", "Sub"), from_onnx),
        **dict.fromkeys(("Sum", "Min", "Max"), from_many),
        "Pow": from_pow,
        "PRelu": from_prelu,
    }

    def export(self, to: Exporter, node: Node) -> None:
        y = to.emit(_FUNCTIONS[self.fn], [to.name(value) for value in node.inputs])
        exporting.finish(to, node.output, y, self.post, quants=self.quants)

    def compute(self, inputs: Inputs) -> Outputs:
        import torch

        x, y = self.per_slot(inputs)
        if self.fn not in _FUNCTIONS:
            raise ModelError(f"unknown function '{self.fn}'")
        if self.fn == "div" and not x.is_floating_point():
            out = torch.div(x, y, rounding_mode="trunc")
        else:
            out = COMBINE[self.fn][1](x, y)
        return (rounded(self.post.apply(out), self.quants),)

    def lower(self, context: Lowering, node: Node) -> None:
        (x, y), out = elements(context, node, *node.inputs)
        context.call(
            ELEMENTWISE,
            node,
            x=x,
            other=y,
            out=out,
            combine=self.fn,
            post=self.post,
            before=Prologue(quant=context.quant(node.inputs[0])),
            other_quant=context.quant(node.inputs[1]),
            quants=rounds_to(context, node, self.quants),
        )


@dataclass(frozen=True, kw_only=True)
class Cast(Op):
    """x as another type of numbers; `to` is its numpy name."""

    to: str

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        return (Value(present(inputs, 0).shape, self.to),)

    @staticmethod
    def from_onnx(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        kind = attrs["to"]
        if isinstance(kind, str):  # until opset 6, its name
            kind = TensorProto.DataType.Value(kind)
        importer.add(Cast(to=str(helper.tensor_dtype_to_np_dtype(kind))), node.input)

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
