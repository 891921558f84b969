"""What each operator becomes in ONNX: one small function an operator, in one table at the end.

A fused operator expands into the chain it stands for:

    pre_scale, pre_shift, pre_act -> Mul, Add, Relu ...    residual -> Add    MergedPointwise -> a Conv a segment

The forms are those of opset 14 on, with the later changes where they matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from optgraph import ops
from optgraph.base.errors import ModelError
from optgraph.ir.graph import Node
from optgraph.ir.op import Op
from optgraph.ir.values import Act, Value
from optgraph.ops.opaque_graph import as_graph

if TYPE_CHECKING:
    from optgraph.onnx.write import Exporter

Writer = Callable[["Exporter", Node, Any], None]


def element(dtype: str) -> int:
    """The ONNX element type of a numpy dtype name."""
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def value_info(name: str, value: Value) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element(value.dtype), value.shape)


def _scalar(number: float, dtype: str) -> np.ndarray:
    return np.array(number, np.dtype(dtype))


# ---- pieces that operators share


def _act(to: Exporter, x: str, act: Act, dtype: str) -> str:
    """The ONNX name of act(x)."""
    match act.kind:
        case "identity":
            return x
        case "relu":
            return to.emit("Relu", [x])
        case "clip":
            bounds = [
                "" if math.isinf(bound) else to.constant(_scalar(bound, dtype), hint)
                for bound, hint in ((act.a, "min"), (act.b, "max"))
            ]
            return to.emit("Clip", [x, *bounds])
        case "leaky_relu":
            return to.emit("LeakyRelu", [x], alpha=act.a)
        case "sigmoid":
            return to.emit("Sigmoid", [x])
        case "silu":
            return to.emit("Mul", [x, to.emit("Sigmoid", [x])])
        case "tanh":
            return to.emit("Tanh", [x])
        case "hard_sigmoid":
            return to.emit("HardSigmoid", [x], alpha=act.a, beta=act.b)
        case "hard_swish":
            return to.emit("HardSwish", [x])
        case _:
            raise ModelError(f"unknown activation '{act.kind}'")


def _finish(to: Exporter, output: str, y: str, act: Act) -> None:
    """Makes act(y) the graph's value `output`."""
    to.bind(output, _act(to, y, act, to.graph.values[output].dtype))


def _column(to: Exporter, vector: str, rank: int) -> str:
    """A value of [C], shaped to broadcast along axis 1 of a tensor of `rank`."""
    array = to.graph.constant(vector)
    shape = (-1, *[1] * (rank - 2))
    if array is not None:
        return to.constant(array.reshape(shape), "column")
    return to.emit("Reshape", [to.name(vector), to.constant(np.array(shape, np.int64), "shape")])


def _scaled(to: Exporter, x: str, scale: str, shift: str, act: Act) -> str:
    """act(x * scale + shift) along axis 1 of the value `x`, without a scale of ones or a shift of zeros."""
    value = to.graph.values[x]
    y = to.name(x)
    if scale and not _is_full(to, scale, 1):
        y = to.emit("Mul", [y, _column(to, scale, len(value.shape))])
    if shift and not _is_full(to, shift, 0):
        y = to.emit("Add", [y, _column(to, shift, len(value.shape))])
    return _act(to, y, act, value.dtype)


def _is_full(to: Exporter, value: str, number: int) -> bool:
    array = to.graph.constant(value)
    return array is not None and bool((array == number).all())


def _prologue(to: Exporter, node: Node, act: Act) -> str:
    return _scaled(to, node.get("x"), node.get("pre_scale"), node.get("pre_shift"), act)


def _epilogue(to: Exporter, node: Node, op: ops.Windowed, y: str) -> None:
    y = _act(to, y, op.act, to.graph.values[node.output].dtype)
    residual = node.get("residual")
    _finish(to, node.output, to.emit("Add", [y, to.name(residual)]) if residual else y, op.post)


# ---- operators


def _window(op: ops.Windowed) -> dict[str, Any]:
    return {"kernel_shape": op.kernel, "strides": op.stride, "pads": op.pads, "dilations": op.dilation}


def _conv(to: Exporter, node: Node, op: ops.Conv) -> None:
    x = _prologue(to, node, op.pre_act)
    weights = [to.name(node.get("w")), to.name(node.get("b"))]
    _epilogue(to, node, op, to.emit("Conv", [x, *weights], group=op.groups, **_window(op)))


def _merged_pointwise(to: Exporter, node: Node, op: ops.MergedPointwise) -> None:
    x = _prologue(to, node, op.pre_act)
    weights = [to.name(value) for value in node.inputs[3:]]
    for i, (segment, output) in enumerate(zip(op.segments, node.outputs, strict=True)):
        y = to.emit("Conv", [x, *weights[2 * i : 2 * i + 2]], kernel_shape=(1, 1), strides=op.stride)
        _finish(to, output, y, segment.act)


def _separable(to: Exporter, node: Node, op: ops.Separable) -> None:
    x = _prologue(to, node, op.pre_act)
    dw, dw_b, w, b = (node.get(slot) for slot in ("dw", "dw_b", "w", "b"))
    y = to.emit("Conv", [x, to.name(dw), to.name(dw_b)], group=to.graph.shape(dw)[0], **_window(op))
    y = _act(to, y, op.mid, to.graph.values[node.output].dtype)
    _epilogue(to, node, op, to.emit("Conv", [y, to.name(w), to.name(b)], kernel_shape=(1, 1)))


def _bottleneck(to: Exporter, node: Node, op: ops.Bottleneck) -> None:
    x = _prologue(to, node, op.pre_act)
    conv_w, conv_b, w, b, rest = (to.name(node.get(slot)) for slot in ("conv_w", "conv_b", "w", "b", "rest"))
    y = _act(to, to.emit("Conv", [x, conv_w, conv_b], **_window(op)), op.mid, to.graph.values[node.output].dtype)
    if rest:
        y = to.emit("Concat", [rest, y] if op.rest_first else [y, rest], axis=1)
    _epilogue(to, node, op, to.emit("Conv", [y, w, b], kernel_shape=(1, 1)))


def _pooled_pointwise(to: Exporter, node: Node, op: ops.PooledPointwise) -> None:
    y = _max_pool(to, node, op)
    w, b = (to.name(node.get(slot)) for slot in ("w", "b"))
    _epilogue(to, node, op, to.emit("Conv", [y, w, b], kernel_shape=(1, 1)))


def _padded(to: Exporter, node: Node, op: ops.Pool | ops.PooledPointwise, fill: float) -> tuple[str, dict[str, Any]]:
    """The input of a pool, and its window."""
    x, window = _scaled(to, node.get("x"), "", "", op.pre_act), _window(op)
    if any(pad >= size for pad, size in zip(op.pads, op.kernel * 2, strict=True)):
        # ONNX Runtime's pools take no padding of a whole kernel, which ceil_mode and dilation can come to.
        value = to.constant(_scalar(fill, to.graph.values[node.output].dtype), "fill")
        pads = np.array([0, 0, *op.pads[:2], 0, 0, *op.pads[2:]], np.int64)
        x = to.emit("Pad", [x, to.constant(pads, "pads"), value])
        window["pads"] = [0, 0, 0, 0]
    return x, window


def _max_pool(to: Exporter, node: Node, op: ops.Pool | ops.PooledPointwise) -> str:
    x, window = _padded(to, node, op, -math.inf)
    return to.emit("MaxPool", [x], **window)


def _average_pool(to: Exporter, node: Node, op: ops.Pool) -> str:
    if op.count_include_pad:
        x, window = _padded(to, node, op, 0.0)
    else:
        x, window = _scaled(to, node.get("x"), "", "", op.pre_act), _window(op)
    if op.dilation == (1, 1):
        del window["dilations"]  # which opset 19 brought
    return to.emit("AveragePool", [x], count_include_pad=int(op.count_include_pad), **window)


def _pool(to: Exporter, node: Node, op: ops.Pool) -> None:
    y = (_max_pool if op.mode == "max" else _average_pool)(to, node, op)
    if node.get("b"):
        y = to.emit("Add", [y, _column(to, node.get("b"), 4)])
    _epilogue(to, node, op, y)


def _global_pool(to: Exporter, node: Node, op: ops.GlobalPool) -> None:
    x = _prologue(to, node, op.pre_act)
    y = to.emit("GlobalMaxPool" if op.mode == "max" else "GlobalAveragePool", [x])
    _finish(to, node.output, y, op.act)


def _affine(to: Exporter, node: Node, op: ops.Affine) -> None:
    x, scale, shift = node.inputs
    to.bind(node.output, _scaled(to, x, scale, shift, op.act))


def _activation(to: Exporter, node: Node, op: ops.Activation) -> None:
    _finish(to, node.output, to.name(node.inputs[0]), op.act)


def _binary(to: Exporter, node: Node, op: ops.Binary) -> None:
    y = to.emit(op.fn.capitalize(), [to.name(value) for value in node.inputs])
    _finish(to, node.output, y, op.post)


def _gemm(to: Exporter, node: Node, op: ops.Gemm) -> None:
    x, *weights = (to.name(value) for value in node.inputs)
    if len(to.graph.shape(node.inputs[0])) == 4:
        x = to.emit("Flatten", [x])
    y = to.emit("Gemm", [x, *weights], transB=1)
    _finish(to, node.output, y, op.act)


def _split(to: Exporter, node: Node, op: ops.Split) -> None:
    sizes = to.constant(np.array(op.sizes, np.int64), "sizes")
    to.emit("Split", [to.name(node.inputs[0]), sizes], [to.name(value) for value in node.outputs], axis=op.axis)


def _slice(to: Exporter, node: Node, op: ops.Slice) -> None:
    fields = {"starts": op.starts, "ends": op.ends, "axes": op.axes, "steps": op.steps}
    vectors = [to.constant(np.array(numbers, np.int64), name) for name, numbers in fields.items()]
    to.emit("Slice", [to.name(node.inputs[0]), *vectors], [to.name(node.output)])


def _reshape(to: Exporter, node: Node, op: ops.Reshape) -> None:
    source, target = to.graph.shape(node.inputs[0]), to.graph.shape(node.output)
    # 0 copies the dimension at the same place, -1 is what is left.
    numbers = [
        d if isinstance(d, int) else 0 if i < len(source) and source[i] == d else -1 for i, d in enumerate(target)
    ]
    shape = to.constant(np.array(numbers, np.int64), "shape")
    to.emit("Reshape", [to.name(node.inputs[0]), shape], [to.name(node.output)])


def _pad(to: Exporter, node: Node, op: ops.Pad) -> None:
    pads = to.constant(np.array(op.pads, np.int64), "pads")
    value = to.constant(_scalar(op.value, to.graph.values[node.output].dtype), "value")
    to.emit("Pad", [to.name(node.inputs[0]), pads, value], [to.name(node.output)], mode=op.mode)


def _reduce(to: Exporter, node: Node, op: ops.Reduce) -> None:
    x, out = to.name(node.inputs[0]), to.name(node.output)
    op_type = f"Reduce{op.mode.capitalize()}"
    if not op.axes:  # ONNX would reduce all
        to.emit("Identity", [x], [out])
    elif op.mode == "sum" or to.opset >= 18:
        axes = to.constant(np.array(op.axes, np.int64), "axes")
        to.emit(op_type, [x, axes], [out], keepdims=int(op.keepdims))
    else:
        to.emit(op_type, [x], [out], axes=op.axes, keepdims=int(op.keepdims))


def _same(op_type: str, attrs: Callable[[Any], dict[str, Any]] = lambda op: {}) -> Writer:
    """The writer of an operator that is one ONNX node on the same inputs."""

    def write(to: Exporter, node: Node, op: Any) -> None:
        to.emit(op_type, [to.name(value) for value in node.inputs], [to.name(node.output)], **attrs(op))

    return write


def _opaque(to: Exporter, node: Node, op: ops.Opaque) -> None:
    graph = as_graph(op, to.graph.opset, to.opset)
    present = [value for value in node.inputs if value]
    names = {"": ""}
    for infos, values in ((graph.input, present), (graph.output, node.outputs)):
        names |= {info.name: to.name(value) for info, value in zip(infos, values, strict=True)}
    names |= {tensor.name: to.constant(numpy_helper.to_array(tensor), tensor.name) for tensor in graph.initializer}
    for part in graph.node:
        for field in (part.input, part.output):
            for i, local in enumerate(field):
                if local not in names:
                    names[local] = to.fresh(local)
                field[i] = names[local]
        to.add(part)


WRITERS: dict[type[Op], Writer] = {
    ops.Conv: _conv,
    ops.MergedPointwise: _merged_pointwise,
    ops.Separable: _separable,
    ops.PooledPointwise: _pooled_pointwise,
    ops.Bottleneck: _bottleneck,
    ops.Pool: _pool,
    ops.GlobalPool: _global_pool,
    ops.Affine: _affine,
    ops.BatchNorm: _same("BatchNormalization", lambda op: {"epsilon": op.epsilon}),
    ops.Activation: _activation,
    ops.Binary: _binary,
    ops.Gemm: _gemm,
    ops.MatMul: _same("MatMul"),
    ops.Concat: _same("Concat", lambda op: {"axis": op.axis}),
    ops.Split: _split,
    ops.Slice: _slice,
    ops.Reshape: _reshape,
    ops.Transpose: _same("Transpose", lambda op: {"perm": op.perm}),
    ops.Softmax: _same("Softmax", lambda op: {"axis": op.axis}),
    ops.LRN: _same("LRN", lambda op: {"size": op.size, "alpha": op.alpha, "beta": op.beta, "bias": op.bias}),
    ops.Pad: _pad,
    ops.Reduce: _reduce,
    ops.Cast: _same("Cast", lambda op: {"to": element(op.to)}),
    ops.Identity: _same("Identity"),
    ops.Opaque: _opaque,
}
