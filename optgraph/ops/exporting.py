"""What the operators' `export` share. The forms are those of opset 14 on, with the later changes where they matter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import helper

from optgraph.base.errors import ModelError
from optgraph.ir.op import Exporter, Node
from optgraph.ir.quant import Quant
from optgraph.ir.values import Act, Value

OPSET = 17  # of everything that asks for no later one; ONNX Runtime 1.22 and much older ones read it


def element(dtype: str) -> int:
    """The ONNX element type of a numpy dtype name."""
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def scalar(number: float, dtype: str) -> np.ndarray:
    return np.array(number, np.dtype(dtype))


def integers(to: Exporter, numbers: Sequence[int], hint: str) -> str:
    """The name of a new initializer of int64."""
    return to.constant(np.array(numbers, np.int64), hint)


def one_node(to: Exporter, node: Node, op_type: str, /, **attrs: Any) -> None:
    """`node` as one ONNX node on the same inputs."""
    to.emit(op_type, [to.name(value) for value in node.inputs], [to.name(node.output)], **attrs)


# Activations that are one ONNX operator without attributes.
_ONE = {
    **{kind: kind.capitalize() for kind in ("relu", "sigmoid", "tanh", "softplus", "softsign", "abs", "neg", "sqrt")},
    **{kind: kind.capitalize() for kind in ("exp", "log", "erf", "sin", "cos", "sign", "floor", "ceil", "round")},
    "reciprocal": "Reciprocal",
    "hard_swish": "HardSwish",
}


def activated(to: Exporter, x: str, act: Act, value: Value, slope: str = "") -> str:
    """The ONNX name of act(x), of a value of that type and rank. slope: the value of [C] that a PRelu reads."""
    dtype = value.dtype
    match act.kind:
        case "identity":
            return x
        case kind if kind in _ONE:
            return to.emit(_ONE[kind], [x])
        case "clip":
            bounds = [
                "" if math.isinf(bound) else to.constant(scalar(bound, dtype), hint)
                for bound, hint in ((act.a, "min"), (act.b, "max"))
            ]
            return to.emit("Clip", [x, *bounds])
        case "prelu":
            return to.emit("PRelu", [x, column(to, slope, len(value.shape))])
        case "leaky_relu":
            return to.emit("LeakyRelu", [x], alpha=act.a)
        case "silu":
            return to.emit("Mul", [x, to.emit("Sigmoid", [x])])
        case "hard_sigmoid":
            return to.emit("HardSigmoid", [x], alpha=act.a, beta=act.b)
        case "elu" if act.b == 1.0:
            return to.emit("Elu", [x], alpha=act.a)
        case "elu":
            return to.emit("Selu", [x], alpha=act.a / act.b, gamma=act.b)
        case "celu" if dtype == "float32":
            return to.emit("Celu", [x], alpha=act.a)
        case "celu":  # which ONNX has for no other type
            return _celu(to, x, act.a, dtype)
        case "threshold":
            return to.emit("ThresholdedRelu", [x], alpha=act.a)
        case "power":
            return to.emit("Pow", [x, to.constant(scalar(act.a, dtype), "exponent")])
        case "mish":
            return to.emit("Mul", [x, to.emit("Tanh", [to.emit("Softplus", [x])])])
        case "gelu":
            root, half, one = (to.constant(scalar(c, dtype), "c") for c in (math.sqrt(0.5), 0.5, 1.0))
            gate = to.emit("Add", [to.emit("Erf", [to.emit("Mul", [x, root])]), one])
            return to.emit("Mul", [to.emit("Mul", [x, half]), gate])
        case "gelu_tanh":
            return _gelu_by_tanh(to, x, dtype)
        case _:
            raise ModelError(f"unknown activation '{act.kind}'")


def _celu(to: Exporter, x: str, alpha: float, dtype: str) -> str:
    """alpha * elu(x / alpha)."""
    scale = to.constant(scalar(alpha, dtype), "alpha")
    y = to.emit("Div", [x, scale])
    if dtype != "float64":
        return to.emit("Mul", [to.emit("Elu", [y]), scale])
    # ONNX Runtime has no Elu of doubles.
    zero, one = (to.constant(scalar(number, dtype), "c") for number in (0.0, 1.0))
    below = to.emit("Sub", [to.emit("Exp", [to.emit("Min", [y, zero])]), one])
    return to.emit("Add", [to.emit("Max", [x, zero]), to.emit("Mul", [below, scale])])


def _gelu_by_tanh(to: Exporter, x: str, dtype: str) -> str:
    """x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))."""
    numbers = (0.044715, math.sqrt(2 / math.pi), 1.0, 0.5)
    third, root, one, half = (to.constant(scalar(c, dtype), "c") for c in numbers)
    cube = to.emit("Mul", [to.emit("Mul", [x, x]), x])
    inner = to.emit("Mul", [to.emit("Add", [x, to.emit("Mul", [cube, third])]), root])
    return to.emit("Mul", [to.emit("Mul", [x, half]), to.emit("Add", [to.emit("Tanh", [inner]), one])])


def finish(
    to: Exporter, output: str, y: str, act: Act, slope: str = "", quants: Sequence[Quant] = (), unsigned: bool = False
) -> None:
    """Makes act(y), rounded to the grids, the graph's value `output`. unsigned: the grids are written in uint8."""
    y = activated(to, y, act, to.value(output), slope)
    to.bind(output, rounded(to, y, quants, to.value(output).dtype, unsigned))


def rounded(to: Exporter, y: str, quants: Sequence[Quant], dtype: str, unsigned: bool = False) -> str:
    """The ONNX name of y, of floats of that dtype, rounded to the grids one after the other. Raises ModelError for
    float64, of which QuantizeLinear takes none."""
    if quants and dtype == "float64":
        raise ModelError("ONNX rounds nothing of float64 to a grid", "make it float32 before")
    for quant in quants:
        scale = to.constant(scalar(quant.scale, dtype), "scale")
        zero = np.uint8(quant.zero + 128) if unsigned else np.int8(quant.zero)
        parameters = [scale, to.constant(np.array(zero), "zero_point")]
        y = to.emit("DequantizeLinear", [to.emit("QuantizeLinear", [y, *parameters]), *parameters])
    return y


def column(to: Exporter, vector: str, rank: int) -> str:
    """A value of [C], shaped to broadcast along axis 1 of a tensor of `rank`."""
    array = to.array(vector)
    shape = (-1, *[1] * (rank - 2))
    if array is not None:
        return to.constant(array.reshape(shape), "column")
    return to.emit("Reshape", [to.name(vector), integers(to, shape, "shape")])


def scaled(to: Exporter, x: str, scale: str, shift: str, act: Act) -> str:
    """act(x * scale + shift) along axis 1 of the value `x`, without a scale of ones or a shift of zeros."""
    value = to.value(x)
    y = to.name(x)
    if scale and not _is_full(to, scale, 1):
        y = to.emit("Mul", [y, column(to, scale, len(value.shape))])
    if shift and not _is_full(to, shift, 0):
        y = to.emit("Add", [y, column(to, shift, len(value.shape))])
    return activated(to, y, act, value)


def _is_full(to: Exporter, value: str, number: int) -> bool:
    array = to.array(value)
    return array is not None and bool((array == number).all())


def reduced(to: Exporter, op_type: str, x: str, axes: Sequence[int]) -> str:
    """A reduction that takes its axes as an attribute until opset 18, and keeps them."""
    if to.opset >= 18:
        return to.emit(op_type, [x, integers(to, axes, "axes")])
    return to.emit(op_type, [x], axes=axes)


def prologue(to: Exporter, node: Node, act: Act) -> str:
    """The input `x` of a node after its prologue: pre_act(x * pre_scale + pre_shift)."""
    return scaled(to, node.get("x"), node.get("pre_scale"), node.get("pre_shift"), act)
