"""What each ONNX operator becomes: one small function an operator, in one table at the end.

Local normalisation happens here, where it needs nothing but the node and the shapes of its inputs: `auto_pad` and
`ceil_mode` become explicit pads, Flatten/Squeeze/Unsqueeze become Reshape, Sum becomes additions, attributes that
moved to inputs between opsets become fields again. Anything else is kept as `Opaque`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper

from optgraph.base.errors import ModelError
from optgraph.ir.op import Op
from optgraph.ir.values import BATCH, Act, Dim, Pads, Shape, Value, broadcast
from optgraph.ops import (
    LRN,
    Activation,
    BatchNorm,
    Binary,
    Cast,
    Concat,
    Conv,
    Gemm,
    GlobalPool,
    Identity,
    MatMul,
    Opaque,
    Pad,
    Pool,
    Reduce,
    Reshape,
    Slice,
    Softmax,
    Split,
    Transpose,
)

if TYPE_CHECKING:
    from optgraph.onnx.read import Importer

Handler = Callable[["Importer", onnx.NodeProto, dict[str, Any]], Op | None]
FOR_INFERENCE = "export the model for inference (model.eval())"


class _KeepError(Exception):
    """This use of the operator has no canonical form: keep it Opaque."""


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes as Python values; strings decoded, tensors and graphs left as protos."""
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in values.items()}


def convert(importer: Importer, node: onnx.NodeProto) -> None:
    """Adds `node` to the importer's graph. Raises ModelError for an operator that ONNX does not know."""
    schema = require_known(importer, node)
    if not schema.min_input <= len(node.input) <= schema.max_input or len(node.output) > schema.max_output:
        raise ModelError(f"{len(node.input)} inputs and {len(node.output)} outputs, which {node.op_type} does not have")
    handler = _HANDLERS.get(node.op_type) if not schema.domain else None
    if handler is not None:
        try:
            op = handler(importer, node, attributes(node))
            if op is not None:
                importer.add(op, list(node.input), list(node.output)[: len(_outputs(op))])
            return
        except _KeepError:
            pass
    _opaque(importer, node, schema)


def _outputs(op: Op) -> tuple[int, ...]:
    return tuple(range(len(op.sizes))) if isinstance(op, Split) else (0,)


# ---- windows


def _window(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any], kernel: list[int]) -> dict[str, Any]:
    """kernel, stride, dilation and explicit pads of a Conv or pool."""
    x = importer.shape(node.input[0])
    if len(x) != 4 or len(kernel) != 2:
        raise _KeepError
    stride = list(attrs.get("strides", [1, 1]))
    dilation = list(attrs.get("dilations", [1, 1]))
    pads = list(attrs.get("pads", [0, 0, 0, 0]))
    if (len(stride), len(dilation), len(pads)) != (2, 2, 4):
        raise ModelError(f"strides {stride}, dilations {dilation}, pads {pads} are not for two axes")
    auto = attrs.get("auto_pad", "NOTSET")
    if auto == "VALID":
        pads = [0, 0, 0, 0]
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        for i in range(2):
            size = x[2 + i]
            if isinstance(size, str):
                raise ModelError(f"auto_pad needs a fixed size, not '{size}'", "give --input-shape", "auto_pad")
            reach = (kernel[i] - 1) * dilation[i] + 1
            total = max((math.ceil(size / stride[i]) - 1) * stride[i] + reach - size, 0)
            small, large = total // 2, total - total // 2
            pads[i], pads[i + 2] = (small, large) if auto == "SAME_UPPER" else (large, small)
    if min(pads) < 0 or min(stride) < 1 or min(dilation) < 1 or min(kernel) < 1:
        raise ModelError(f"kernel {kernel}, strides {stride}, dilations {dilation}, pads {pads} make no window")
    return {
        "kernel": (kernel[0], kernel[1]),
        "stride": (stride[0], stride[1]),
        "dilation": (dilation[0], dilation[1]),
        "pads": (pads[0], pads[1], pads[2], pads[3]),
    }


def _conv(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> Op:
    weight = importer.shape(node.input[1])
    kernel = list(attrs.get("kernel_shape", weight[2:]))
    return Conv(**_window(importer, node, attrs, kernel), groups=int(attrs.get("group", 1)))


def _max_pool(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> Op:
    if importer.reads(node.output[1:]):  # the indices
        raise _KeepError
    window = _window(importer, node, attrs, list(attrs["kernel_shape"]))
    window["pads"], _ = _ceil(importer.shape(node.input[0]), window, attrs)
    return Pool(mode="max", **window)


def _average_pool(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> Op | None:
    window = _window(importer, node, attrs, list(attrs["kernel_shape"]))
    pads = window["pads"]
    window["pads"], extended = _ceil(importer.shape(node.input[0]), window, attrs)
    counted = bool(attrs.get("count_include_pad", 0)) and any(window["pads"])
    if counted and extended:
        # What ceil_mode adds does not count, but `pads` do: they become part of the image.
        window["pads"] = tuple(after - before for after, before in zip(window["pads"], pads, strict=True))
        image = importer.add(Pad(pads=(0, 0, *pads[:2], 0, 0, *pads[2:])), [node.input[0]], [""])
        importer.add(Pool(mode="average", **window), [image])
        return None
    return Pool(mode="average", **window, count_include_pad=counted)


def _ceil(x: Shape, window: dict[str, Any], attrs: dict[str, Any]) -> tuple[Pads, bool]:
    """Pads with the rows and columns that ceil_mode adds at the end (a window must still start inside)."""
    pads = list(window["pads"])
    if not attrs.get("ceil_mode", 0):
        return window["pads"], False
    for i in range(2):
        size = x[2 + i]
        if isinstance(size, str):
            raise ModelError(f"ceil_mode needs a fixed size, not '{size}'", "give --input-shape", "ceil_mode")
        stride, reach = window["stride"][i], (window["kernel"][i] - 1) * window["dilation"][i] + 1
        padded = size + pads[i] + pads[i + 2]
        count = math.ceil((padded - reach) / stride) + 1
        if (count - 1) * stride >= size + pads[i]:
            count -= 1
        pads[i + 2] += max((count - 1) * stride + reach - padded, 0)
    extended = (pads[0], pads[1], pads[2], pads[3])
    return extended, extended != window["pads"]


def _global_pool(mode: str) -> Handler:
    def handler(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> Op:
        if len(importer.shape(node.input[0])) != 4:
            raise _KeepError
        return GlobalPool(mode=mode)

    return handler


# ---- arithmetic


def _binary(fn: str) -> Handler:
    def handler(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> Op:
        if not _floating(importer, node.input[0]) or "axis" in attrs:
            raise _KeepError
        return Binary(fn=fn)

    return handler


def _sum(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> Op | None:
    if not _floating(importer, node.input[0]):
        raise _KeepError
    if len(node.input) == 1:
        return Identity()
    total = node.input[0]
    for i, term in enumerate(node.input[1:], start=1):
        last = i == len(node.input) - 1
        total = importer.add(Binary(fn="add"), [total, term], [node.output[0] if last else ""])
    return None


def _extremum(fn: str) -> Handler:
    """Min or Max against one scalar constant is half a Clip."""

    def handler(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> Op | None:
        bounds = [(i, importer.constant(name)) for i, name in enumerate(node.input)]
        scalars = [(i, c) for i, c in bounds if c is not None and c.size == 1]
        if len(node.input) != 2 or len(scalars) != 1 or not _floating(importer, node.input[0]):
            raise _KeepError
        index, bound = scalars[0]
        other = node.input[1 - index]
        shape = importer.shape(other)
        if broadcast(shape, tuple(bound.shape)) != shape:
            raise _KeepError
        value = float(bound.item())
        act = clip(-math.inf, value) if fn == "min" else clip(value, math.inf)
        importer.add(Activation(act=act), [other])
        return None

    return handler


def _gemm(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> Op | None:
    alpha, beta = float(attrs.get("alpha", 1.0)), float(attrs.get("beta", 1.0))
    weight = importer.constant(node.input[1])
    name = node.input[1]
    if attrs.get("transA", 0) or not _floating(importer, node.input[0]):
        raise _KeepError
    if alpha != 1.0 or not attrs.get("transB", 0):
        if weight is None:
            raise _KeepError
        weight = weight if attrs.get("transB", 0) else weight.T
        scaled = weight if alpha == 1.0 else (weight.astype(np.float64) * alpha).astype(weight.dtype)
        name = importer.add_constant(np.asarray(scaled, order="C"), node.input[1])
    bias = node.input[2] if len(node.input) > 2 else ""
    if bias:
        array = importer.constant(bias)
        columns = importer.shape(name)[0]
        if not isinstance(columns, int):
            raise _KeepError
        if array is None:
            if beta != 1.0 or importer.shape(bias) != (columns,):
                raise _KeepError
        elif array.shape not in ((), (1,), (1, 1), (columns,), (1, columns)):
            raise _KeepError
        elif beta != 1.0 or array.shape != (columns,):
            row = np.broadcast_to(array.reshape(-1).astype(np.float64) * beta, (columns,))
            bias = importer.add_constant(row.astype(array.dtype), bias)
    importer.add(Gemm(), [node.input[0], name, bias] if bias else [node.input[0], name])
    return None


def _mat_mul(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> Op:
    if min(len(importer.shape(name)) for name in node.input) < 2:
        raise _KeepError
    return MatMul()


def _batch_norm(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> Op | None:
    if attrs.get("training_mode", 0) or any(node.output[1:]):
        raise ModelError("batch normalization in training mode", FOR_INFERENCE, "training_mode")
    if attrs.get("spatial", 1) != 1:
        raise _KeepError
    return BatchNorm(epsilon=float(attrs.get("epsilon", 1e-5)))


def _lrn(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> Op:
    return LRN(
        size=int(attrs["size"]),
        alpha=float(attrs.get("alpha", 1e-4)),
        beta=float(attrs.get("beta", 0.75)),
        bias=float(attrs.get("bias", 1.0)),
    )


def _softmax(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> Op | None:
    shape = importer.shape(node.input[0])
    axis = _axis(int(attrs.get("axis", 1 if importer.opset < 13 else -1)), len(shape))
    if importer.opset >= 13 or all(d == 1 for d in shape[axis + 1 :]):
        return Softmax(axis=axis)
    # Before opset 13, softmax ran over all axes from `axis` on, taken as one.
    front, back = _product(shape[:axis]), _product(shape[axis:])
    if front is None or back is None:
        raise _KeepError
    rows = importer.add(Reshape(shape=(front, back)), [node.input[0]], [""])
    importer.add(Reshape(shape=shape), [importer.add(Softmax(axis=1), [rows], [""])])
    return None


# ---- activations


def clip(low: float, high: float) -> Act:
    """The activation min(max(x, low), high), as Relu where it is that."""
    return Act("relu") if low == 0.0 and high == math.inf else Act("clip", low, high)


def _activation(kind: str, a: tuple[str, float] | None = None, b: tuple[str, float] | None = None) -> Handler:
    """An activation whose parameters are attributes, each given as (name, default)."""

    def handler(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> Op:
        if not _floating(importer, node.input[0]):
            raise _KeepError
        parameters = [float(attrs.get(p[0], p[1])) if p else 0.0 for p in (a, b)]
        return Activation(act=Act(kind, *parameters))

    return handler


def _clip(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> Op | None:
    if not _floating(importer, node.input[0]):
        raise _KeepError
    bounds = []
    for i, (name, default) in enumerate((("min", -math.inf), ("max", math.inf)), start=1):
        bound = attrs.get(name, default)
        if i < len(node.input) and node.input[i]:
            array = importer.constant(node.input[i])
            if array is None:
                raise _KeepError
            bound = array.item()
        bounds.append(float(bound))
    importer.add(Activation(act=clip(*bounds)), [node.input[0]])
    return None


# ---- shapes and data movement


def _reshape(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> Op | None:
    target = importer.dims(node.input[1]) if len(node.input) > 1 else list(attrs["shape"])
    if target is None:
        raise _KeepError
    source = importer.shape(node.input[0])
    resolved: list[Dim] = []
    for i, d in enumerate(target):
        if d == 0 and not attrs.get("allowzero", 0):
            if i >= len(source):
                raise ModelError(f"reshapes {list(source)} to {target}: there is no dimension {i} to copy")
            d = source[i]
        resolved.append(d)
    importer.add(Reshape(shape=tuple(resolved)), [node.input[0]])
    return None


def _flatten(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> Op | None:
    shape = importer.shape(node.input[0])
    axis = int(attrs.get("axis", 1))
    axis += len(shape) if axis < 0 else 0
    front, back = _product(shape[:axis]), _product(shape[axis:])
    if front is None and back is None:
        raise _KeepError
    importer.add(Reshape(shape=(-1 if front is None else front, -1 if back is None else back)), [node.input[0]])
    return None


def _product(dims: Shape) -> Dim | None:
    """The product, a symbol if it is just that; None if a symbol is multiplied."""
    symbols = [d for d in dims if isinstance(d, str)]
    number = math.prod(d for d in dims if isinstance(d, int))
    if not symbols:
        return number
    return symbols[0] if len(symbols) == 1 and number == 1 else None


def _axes(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any], rank: int) -> list[int] | None:
    """The `axes` of a node, attribute or second input, made positive; None if it names none."""
    axes = attrs.get("axes")
    if len(node.input) > 1 and node.input[1]:
        array = importer.constant(node.input[1])
        if array is None:
            raise _KeepError
        axes = array.reshape(-1).tolist()
    if axes is None:
        return None
    return [_axis(int(a), rank) for a in axes]


def _axis(axis: int, rank: int) -> int:
    """`axis`, counted from the front. Raises ModelError if there is none such."""
    if not -rank <= axis < rank:
        raise ModelError(f"axis {axis} of a tensor of rank {rank}")
    return axis % rank


def _squeeze(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> Op | None:
    shape = importer.shape(node.input[0])
    axes = _axes(importer, node, attrs, len(shape))
    if axes is None:
        axes = [i for i, d in enumerate(shape) if d == 1]
    if any(shape[a] != 1 for a in axes):
        raise ModelError(f"squeezes axes {axes} of {list(shape)}, which are not all 1")
    importer.add(Reshape(shape=tuple(d for i, d in enumerate(shape) if i not in axes)), [node.input[0]])
    return None


def _unsqueeze(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> Op | None:
    shape = importer.shape(node.input[0])
    count = len(attrs["axes"]) if "axes" in attrs else math.prod(int(d) for d in importer.shape(node.input[1]))
    axes = _axes(importer, node, attrs, len(shape) + count) or []
    rest = iter(shape)
    importer.add(
        Reshape(shape=tuple(1 if i in axes else next(rest) for i in range(len(shape) + count))), [node.input[0]]
    )
    return None


def _expand(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> Op | None:
    target = importer.dims(node.input[1])
    if target is None:
        raise _KeepError
    source = importer.shape(node.input[0])
    if broadcast(source, tuple(target)) != source:
        raise _KeepError
    importer.add(Identity(), [node.input[0]])
    return None


def _transpose(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> Op:
    rank = len(importer.shape(node.input[0]))
    return Transpose(perm=tuple(attrs.get("perm", range(rank - 1, -1, -1))))


def _concat(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> Op:
    return Concat(axis=_axis(int(attrs.get("axis", 1)), len(importer.shape(node.input[0]))))


def _split(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> Op | None:
    shape = importer.shape(node.input[0])
    axis = _axis(int(attrs.get("axis", 0)), len(shape))
    size, count = shape[axis], len(node.output)
    if isinstance(size, str):
        raise _KeepError
    sizes = attrs.get("split")
    if len(node.input) > 1 and node.input[1]:
        array = importer.constant(node.input[1])
        if array is None:
            raise _KeepError
        sizes = array.tolist()
    if sizes is None:
        chunk = math.ceil(size / count)
        sizes = [chunk] * (count - 1) + [size - chunk * (count - 1)]
    if len(sizes) != count:
        raise ModelError(f"{len(sizes)} pieces for {count} outputs")
    importer.add(Split(axis=axis, sizes=tuple(int(s) for s in sizes)), [node.input[0]])
    return None


def _slice(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> Op | None:
    shape = importer.shape(node.input[0])
    fields: list[list[int]] = []
    for i, name in enumerate(("starts", "ends", "axes", "steps"), start=1):
        value = attrs.get(name)
        if i < len(node.input) and node.input[i]:
            array = importer.constant(node.input[i])
            if array is None:
                raise _KeepError
            value = array.tolist()
        if value is None:
            value = range(len(fields[0])) if name == "axes" else [1] * len(fields[0])
        fields.append([int(v) for v in value])
    starts, ends, axes, steps = fields
    axes = [_axis(a, len(shape)) for a in axes]
    if any(isinstance(shape[a], str) for a in axes):
        raise _KeepError
    op = Slice(starts=tuple(starts), ends=tuple(ends), axes=tuple(axes), steps=tuple(steps))
    importer.add(op, [node.input[0]])
    return None


def _pad(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> Op | None:
    rank = len(importer.shape(node.input[0]))
    mode = attrs.get("mode", "constant")
    if mode not in ("constant", "edge"):
        raise _KeepError
    pads, value, axes = list(attrs.get("pads", [])), float(attrs.get("value", 0.0)), None
    if len(node.input) > 1:
        array = importer.constant(node.input[1])
        if array is None:
            raise _KeepError
        pads = array.tolist()
    if len(node.input) > 2 and node.input[2]:
        fill = importer.constant(node.input[2])
        if fill is None:
            raise _KeepError
        value = float(fill.item())
    if len(node.input) > 3 and node.input[3]:
        axes = importer.dims(node.input[3])
    if axes is not None:
        full = [0] * (2 * rank)
        for i, axis in enumerate(axes):
            full[int(axis) % rank], full[int(axis) % rank + rank] = pads[i], pads[i + len(axes)]
        pads = full
    importer.add(Pad(pads=tuple(int(p) for p in pads), value=value, mode=mode), [node.input[0]])
    return None


def _reduce(mode: str) -> Handler:
    def handler(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> Op | None:
        rank = len(importer.shape(node.input[0]))
        if not _floating(importer, node.input[0]):
            raise _KeepError
        axes = _axes(importer, node, attrs, rank)
        if not axes:
            if attrs.get("noop_with_empty_axes", 0):
                importer.add(Identity(), [node.input[0]])
                return None
            axes = list(range(rank))
        keep = bool(attrs.get("keepdims", 1))
        importer.add(Reduce(mode=mode, axes=tuple(sorted(axes)), keepdims=keep), [node.input[0]])
        return None

    return handler


def _cast(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> Op:
    return Cast(to=str(helper.tensor_dtype_to_np_dtype(attrs["to"])))


def _cast_like(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> Op | None:
    importer.add(Cast(to=importer.dtype(node.input[1])), [node.input[0]])
    return None


def _identity(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> Op | None:
    if importer.constant(node.input[0]) is not None:
        importer.alias(node.output[0], node.input[0])  # a weight under a second name is that weight, shared
        return None
    return Identity()


def _dropout(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> Op | None:
    if len(node.input) > 2 and node.input[2]:
        ratio = importer.constant(node.input[1]) if node.input[1] else np.array(0.5)
        training = importer.constant(node.input[2])
        if (training is None or training.any()) and (ratio is None or ratio.any()):
            raise ModelError("dropout in training mode", FOR_INFERENCE)
    if importer.reads(node.output[1:]):  # its mask
        raise _KeepError
    importer.add(Identity(), [node.input[0]], [node.output[0]])
    return None


def _constant(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> Op | None:
    for key, value in attrs.items():
        if key == "value":
            array = importer.tensor(value)
        elif key in ("value_float", "value_floats"):
            array = np.array(value, dtype=np.float32)
        elif key in ("value_int", "value_ints"):
            array = np.array(value, dtype=np.int64)
        else:
            raise ModelError(f"a constant given as {key} is not supported", "export it as a tensor", key)
        importer.add_constant(array, node.output[0])
        return None
    raise ModelError("a constant without a value")


def _floating(importer: Importer, name: str) -> bool:
    return importer.dtype(name).startswith(("float", "bfloat"))


# ---- everything else


def require_known(importer: Importer, node: onnx.NodeProto) -> onnx.defs.OpSchema:
    """What ONNX says about the operator. Raises ModelError if it knows none such, or for control flow."""
    for attribute in node.attribute:
        if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
            remedy = "export a static graph (trace the model)"
            raise ModelError("control flow is not supported", remedy, attribute.name)
    domain = "" if node.domain == "ai.onnx" else node.domain
    version = importer.graph.domains.get(node.domain, importer.opset)
    try:
        return onnx.defs.get_schema(node.op_type, version, domain)
    except (onnx.defs.SchemaError, TypeError):  # or the version is no int of 32 bits
        raise ModelError(
            f"ONNX opset {version} of domain '{domain or 'ai.onnx'}' knows no operator {node.op_type}",
            "export it from standard operators",
        ) from None


def _opaque(importer: Importer, node: onnx.NodeProto, schema: onnx.defs.OpSchema) -> None:
    """Keeps the node as it is; ONNX's own shape inference finds its outputs."""
    # It computes no size from a symbol, as Resize would have to. Where two batch sizes come out, that is the batch.
    first, second = (_inferred(importer, node, schema, batch) for batch in _BATCHES)
    values = []
    for (shape, dtype), (other, _) in zip(first, second, strict=True):
        unknown = (f"{node.output[0]}.{i}" for i in range(len(shape)))
        dims = zip(shape, other, unknown, strict=True)
        values.append(Value(tuple(a if a == b else BATCH if (a, b) == _BATCHES else u for a, b, u in dims), dtype))
    op = Opaque(op_type=node.op_type, domain=schema.domain, proto=node.SerializeToString(), values=tuple(values))
    importer.add(op, list(node.input))


_BATCHES = (1009, 2003)  # primes, so that no product of other sizes is taken for one


def _inferred(
    importer: Importer, node: onnx.NodeProto, schema: onnx.defs.OpSchema, batch: int
) -> list[tuple[list[Dim], str]]:
    """Shape and dtype of each output for a batch of that size; a dimension that is not known gets a name."""
    types, data = {}, {}
    for name in node.input:
        if name:
            info = importer.graph.values[importer.value(name)]
            element = helper.np_dtype_to_tensor_dtype(np.dtype(info.dtype))
            types[name] = helper.make_tensor_type_proto(element, [batch if d == BATCH else d for d in info.shape])
            array = importer.constant(name)
            if array is not None and array.size <= 4096:
                data[name] = onnx.numpy_helper.from_array(array, name)
    try:
        inferred = onnx.shape_inference.infer_node_outputs(
            schema,
            node,
            types,
            data,
            opset_imports=list(importer.model.opset_import),
            ir_version=importer.model.ir_version,
        )
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        raise ModelError(str(error).splitlines()[0]) from None
    found = []
    for name in node.output:
        proto = inferred.get(name)
        if proto is None or not proto.HasField("tensor_type") or not proto.tensor_type.HasField("shape"):
            raise ModelError("the shape of its output cannot be found", "fix the input shapes with --input-shape")
        shape: list[Dim] = [
            d.dim_value if d.HasField("dim_value") else d.dim_param or f"{node.output[0]}.{i}"
            for i, d in enumerate(proto.tensor_type.shape.dim)
        ]
        found.append((shape, str(helper.tensor_dtype_to_np_dtype(proto.tensor_type.elem_type))))
    return found


_HANDLERS: dict[str, Handler] = {
    "Add": _binary("add"),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Clip": _clip,
    "Concat": _concat,
    "Constant": _constant,
    "Conv": _conv,
    "Div": _binary("div"),
    "Dropout": _dropout,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool("average"),
    "GlobalMaxPool": _global_pool("max"),
    "HardSigmoid": _activation("hard_sigmoid", ("alpha", 0.2), ("beta", 0.5)),
    "HardSwish": _activation("hard_swish"),
    "Identity": _identity,
    "LRN": _lrn,
    "LeakyRelu": _activation("leaky_relu", ("alpha", 0.01)),
    "MatMul": _mat_mul,
    "Max": _extremum("max"),
    "MaxPool": _max_pool,
    "Min": _extremum("min"),
    "Mul": _binary("mul"),
    "Pad": _pad,
    "ReduceMax": _reduce("max"),
    "ReduceMean": _reduce("mean"),
    "ReduceMin": _reduce("min"),
    "ReduceSum": _reduce("sum"),
    "Relu": _activation("relu"),
    "Reshape": _reshape,
    "Sigmoid": _activation("sigmoid"),
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Squeeze": _squeeze,
    "Sub": _binary("sub"),
    "Sum": _sum,
    "Tanh": _activation("tanh"),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
