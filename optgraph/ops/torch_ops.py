"""Every operator of the vocabulary as a plain torch function, NCHW: the definition that kernels are checked against.

Each is written as `ops.py` defines it, through whichever torch function says so directly. `compute` runs one operator
on tensors; `function` is the same for calling it often. No dtype is assumed: what comes in goes through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from optgraph import ops
from optgraph.base.errors import ModelError
from optgraph.ir.op import Op
from optgraph.ir.values import Act, Pads

Tensor = torch.Tensor
Inputs = Sequence[Tensor | None]
Outputs = tuple[Tensor, ...]


def apply_act(x: Tensor, act: Act) -> Tensor:
    """`act` elementwise, in the dtype of `x`; NaN stays NaN."""
    match act.kind:
        case "identity":
            return x
        case "relu":
            return F.relu(x)
        case "clip":
            return x.clamp(act.a, act.b)
        case "leaky_relu":
            return F.leaky_relu(x, act.a)
        case "sigmoid":
            return x.sigmoid()
        case "silu":
            return F.silu(x)
        case "tanh":
            return x.tanh()
        case "hard_sigmoid":
            return (act.a * x + act.b).clamp(0, 1)
        case "hard_swish":
            return x * (x / 6 + 0.5).clamp(0, 1)
        case _:
            raise ModelError(f"unknown activation '{act.kind}'")


# ---- operators


def _slots(op: Op, inputs: Inputs) -> list[Any]:
    """One tensor a slot, None where it is absent."""
    return [*inputs, *[None] * (len(op.slots) - len(inputs))]


def _channels(vector: Tensor, x: Tensor) -> Tensor:
    """A vector of [C], shaped to broadcast along axis 1 of `x`."""
    return vector.reshape(-1, *[1] * (x.ndim - 2))


def _prologue(x: Tensor, act: Act, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    if scale is not None:
        x = x * _channels(scale, x)
    if shift is not None:
        x = x + _channels(shift, x)
    return apply_act(x, act)


def _epilogue(y: Tensor, op: ops.Windowed, residual: Tensor | None) -> Outputs:
    y = apply_act(y, op.act)
    return (apply_act(y if residual is None else y + residual, op.post),)


def _padded(x: Tensor, pads: Pads, value: float = 0.0) -> Tensor:
    top, left, bottom, right = pads
    return F.pad(x, (left, right, top, bottom), value=value)


def _convolve(
    x: Tensor, w: Tensor, b: Tensor | None, op: ops.Conv | ops.Separable | ops.Bottleneck, groups: int
) -> Tensor:
    padding = op.pads[:2]
    if padding != op.pads[2:]:
        x, padding = _padded(x, op.pads), (0, 0)
    return F.conv2d(x, w, b, op.stride, padding, op.dilation, groups)


def _conv(op: ops.Conv, inputs: Inputs) -> Outputs:
    x, w, b, residual, scale, shift = _slots(op, inputs)
    return _epilogue(_convolve(_prologue(x, op.pre_act, scale, shift), w, b, op, op.groups), op, residual)


def _merged_pointwise(op: ops.MergedPointwise, inputs: Inputs) -> Outputs:
    x, scale, shift, *weights = _slots(op, inputs)
    x = _prologue(x, op.pre_act, scale, shift)
    pairs = zip(weights[::2], weights[1::2], op.segments, strict=True)
    return tuple(apply_act(F.conv2d(x, w, b, op.stride), segment.act) for w, b, segment in pairs)


def _separable(op: ops.Separable, inputs: Inputs) -> Outputs:
    x, dw, dw_b, w, b, residual, scale, shift = _slots(op, inputs)
    x = _convolve(_prologue(x, op.pre_act, scale, shift), dw, dw_b, op, groups=dw.shape[0])
    return _epilogue(F.conv2d(apply_act(x, op.mid), w, b), op, residual)


def _pooled_pointwise(op: ops.PooledPointwise, inputs: Inputs) -> Outputs:
    x, w, b, residual = _slots(op, inputs)
    return _epilogue(F.conv2d(_max_pool(op, apply_act(x, op.pre_act)), w, b), op, residual)


def _bottleneck(op: ops.Bottleneck, inputs: Inputs) -> Outputs:
    x, conv_w, conv_b, w, b, residual, scale, shift, rest = _slots(op, inputs)
    z = apply_act(_convolve(_prologue(x, op.pre_act, scale, shift), conv_w, conv_b, op, groups=1), op.mid)
    if rest is not None:
        z = torch.cat((rest, z) if op.rest_first else (z, rest), 1)
    return _epilogue(F.conv2d(z, w, b), op, residual)


def _pool(op: ops.Pool, inputs: Inputs) -> Outputs:
    x, b, residual = _slots(op, inputs)
    pool = _max_pool if op.mode == "max" else _average_pool
    y = pool(op, apply_act(x, op.pre_act))
    return _epilogue(y if b is None else y + _channels(b, y), op, residual)


def _torch_pads(op: ops.Pool | ops.PooledPointwise) -> bool:
    """Whether torch's pools take the padding: symmetric, and at most half of the window."""
    return op.pads[:2] == op.pads[2:] and all(
        2 * pad <= kernel for pad, kernel in zip(op.pads, op.kernel, strict=False)
    )


def _max_pool(op: ops.Pool | ops.PooledPointwise, x: Tensor) -> Tensor:
    if _torch_pads(op):
        return F.max_pool2d(x, op.kernel, op.stride, op.pads[:2], op.dilation)
    return F.max_pool2d(_padded(x, op.pads, -torch.inf), op.kernel, op.stride, 0, op.dilation)


def _average_pool(op: ops.Pool, x: Tensor) -> Tensor:
    if _torch_pads(op) and op.dilation == (1, 1):
        return F.avg_pool2d(x, op.kernel, op.stride, op.pads[:2], count_include_pad=op.count_include_pad)

    def window_sum(image: Tensor) -> Tensor:
        ones = image.new_ones(image.shape[1], 1, *op.kernel)
        return F.conv2d(_padded(image, op.pads), ones, None, op.stride, 0, op.dilation, image.shape[1])

    if op.count_include_pad:
        return window_sum(x) / (op.kernel[0] * op.kernel[1])
    return window_sum(x) / window_sum(x.new_ones(1, 1, *x.shape[2:]))


def _global_pool(op: ops.GlobalPool, inputs: Inputs) -> Outputs:
    x, scale, shift = _slots(op, inputs)
    x = _prologue(x, op.pre_act, scale, shift)
    y = x.amax((2, 3), keepdim=True) if op.mode == "max" else x.mean((2, 3), keepdim=True)
    return (apply_act(y, op.act),)


def _affine(op: ops.Affine, inputs: Inputs) -> Outputs:
    x, scale, shift = _slots(op, inputs)
    return (_prologue(x, op.act, scale, shift),)


def _batch_norm(op: ops.BatchNorm, inputs: Inputs) -> Outputs:
    x, scale, b, mean, var = _slots(op, inputs)
    return (F.batch_norm(x, mean, var, scale, b, eps=op.epsilon),)


def _activation(op: ops.Activation, inputs: Inputs) -> Outputs:
    (x,) = _slots(op, inputs)
    return (apply_act(x, op.act),)


def _binary(op: ops.Binary, inputs: Inputs) -> Outputs:
    x, y = _slots(op, inputs)
    match op.fn:
        case "add":
            out = x + y
        case "sub":
            out = x - y
        case "mul":
            out = x * y
        case "div":
            out = x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")
        case _:
            raise ModelError(f"unknown function '{op.fn}'")
    return (apply_act(out, op.post),)


def _gemm(op: ops.Gemm, inputs: Inputs) -> Outputs:
    x, w, b = _slots(op, inputs)
    y = x.flatten(1) @ w.T
    return (apply_act(y if b is None else y + b, op.act),)


def _matmul(op: ops.MatMul, inputs: Inputs) -> Outputs:
    x, y = _slots(op, inputs)
    return (x @ y,)


def _concat(op: ops.Concat, inputs: Inputs) -> Outputs:
    return (torch.cat(_slots(op, inputs), op.axis),)


def _split(op: ops.Split, inputs: Inputs) -> Outputs:
    (x,) = _slots(op, inputs)
    return tuple(x.split(op.sizes, op.axis))


def _slice(op: ops.Slice, inputs: Inputs) -> Outputs:
    (x,) = _slots(op, inputs)
    for start, end, axis, step in zip(op.starts, op.ends, op.axes, op.steps, strict=True):
        kept = range(x.shape[axis])[start:end:step]
        x = x.index_select(axis, torch.tensor(kept, dtype=torch.int64, device=x.device))
    return (x,)


def _reshape(op: ops.Reshape, inputs: Inputs) -> Outputs:
    (x,) = _slots(op, inputs)
    # A symbol is what is left; where -1 asks for that already, it is the batch, which leads.
    symbol = x.shape[0] if -1 in op.shape else -1
    return (x.reshape([symbol if isinstance(d, str) else d for d in op.shape]),)


def _transpose(op: ops.Transpose, inputs: Inputs) -> Outputs:
    (x,) = _slots(op, inputs)
    return (x.permute(op.perm),)


def _softmax(op: ops.Softmax, inputs: Inputs) -> Outputs:
    (x,) = _slots(op, inputs)
    return (x.softmax(op.axis),)


def _lrn(op: ops.LRN, inputs: Inputs) -> Outputs:
    (x,) = _slots(op, inputs)
    # torch's own pads an even window on the other side than ONNX.
    neighbours = F.pad(x * x, [0, 0] * (x.ndim - 2) + [(op.size - 1) // 2, op.size // 2])
    squares = neighbours.unfold(1, op.size, 1).sum(-1)
    return (x / (op.bias + op.alpha / op.size * squares) ** op.beta,)


def _pad(op: ops.Pad, inputs: Inputs) -> Outputs:
    (x,) = _slots(op, inputs)
    if op.mode == "edge":
        for axis, size in enumerate(x.shape):
            nearest = torch.arange(-op.pads[axis], size + op.pads[axis + x.ndim], device=x.device).clamp(0, size - 1)
            x = x.index_select(axis, nearest)
        return (x,)
    axes = reversed(range(x.ndim))  # torch counts from the last axis
    return (F.pad(x, [p for axis in axes for p in (op.pads[axis], op.pads[axis + x.ndim])], value=op.value),)


def _reduce(op: ops.Reduce, inputs: Inputs) -> Outputs:
    (x,) = _slots(op, inputs)
    if not op.axes:  # torch would reduce all
        return (x,)
    match op.mode:
        case "mean":
            return (x.mean(op.axes, op.keepdims),)
        case "sum":
            return (x.sum(op.axes, op.keepdims, dtype=x.dtype),)
        case "max":
            return (x.amax(op.axes, op.keepdims),)
        case "min":
            return (x.amin(op.axes, op.keepdims),)
        case _:
            raise ModelError(f"unknown reduction '{op.mode}'")


def _cast(op: ops.Cast, inputs: Inputs) -> Outputs:
    (x,) = _slots(op, inputs)
    return (x.to(torch_dtype(op.to)),)


def _identity(op: ops.Identity, inputs: Inputs) -> Outputs:
    (x,) = _slots(op, inputs)
    return (x,)


_FUNCTIONS: dict[type[Op], Callable[[Any, Inputs], Outputs]] = {
    ops.Conv: _conv,
    ops.MergedPointwise: _merged_pointwise,
    ops.Separable: _separable,
    ops.PooledPointwise: _pooled_pointwise,
    ops.Bottleneck: _bottleneck,
    ops.Pool: _pool,
    ops.GlobalPool: _global_pool,
    ops.Affine: _affine,
    ops.BatchNorm: _batch_norm,
    ops.Activation: _activation,
    ops.Binary: _binary,
    ops.Gemm: _gemm,
    ops.MatMul: _matmul,
    ops.Concat: _concat,
    ops.Split: _split,
    ops.Slice: _slice,
    ops.Reshape: _reshape,
    ops.Transpose: _transpose,
    ops.Softmax: _softmax,
    ops.LRN: _lrn,
    ops.Pad: _pad,
    ops.Reduce: _reduce,
    ops.Cast: _cast,
    ops.Identity: _identity,
}


def function(op: Op, opsets: Mapping[str, int] | None = None) -> Callable[[Inputs], Outputs]:
    """The function of tensors that `op` is, to be called any number of times and from any thread.

    opsets: ONNX domain -> version, '' being ONNX's own, which only an Opaque operator needs (opset 17 if None).
    An operator from outside the vocabulary is its own `compute`.
    Raises ModelError for an Opaque operator that ONNX does not know.
    """
    if isinstance(op, ops.Opaque):
        return _opaque(op, opsets or {"": 17})
    found = _FUNCTIONS.get(type(op))
    return op.compute if found is None else partial(found, op)


def compute(op: Op, inputs: Inputs) -> Outputs:
    """`op` on tensors, one a slot, None for an absent one. Raises ModelError if `op` cannot be computed."""
    return function(op)(inputs)


def torch_dtype(name: str) -> torch.dtype:
    """The torch dtype of a numpy name. Raises ModelError if torch has none."""
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ModelError(f"dtype '{name}' is not supported")
    return dtype


def _opaque(op: ops.Opaque, opsets: Mapping[str, int]) -> Callable[[Inputs], Outputs]:
    """ONNX's own implementation, in numpy."""
    # Here, since kernels import this module for `apply_act` alone.
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    from optgraph.ops.opaque_graph import OPSET, as_graph

    opset = max(opsets[""], OPSET)
    graph = as_graph(op, opsets[""], opset)
    inputs = [value.name for value in graph.input]
    imports = [helper.make_opsetid("", opset)]
    if op.domain:
        imports.append(helper.make_opsetid(op.domain, opsets.get(op.domain, 1)))
    try:
        evaluator = ReferenceEvaluator(helper.make_model(graph, opset_imports=imports))
    except Exception as error:
        raise ModelError(f"ONNX has no reference implementation of it: {_line(error)}") from error

    def call(tensors: Inputs) -> Outputs:
        device = next((t.device for t in tensors if t is not None), torch.device("cpu"))
        present = [_to_numpy(t) for t in tensors if t is not None]
        feeds = dict(zip(inputs, present, strict=True))
        try:
            return tuple(torch.from_numpy(np.array(a)).to(device) for a in evaluator.run(None, feeds))
        except Exception as error:
            raise ModelError(f"ONNX's reference implementation failed: {_line(error)}") from error

    return call


def _to_numpy(tensor: Tensor) -> np.ndarray:
    tensor = tensor.float() if tensor.dtype == torch.bfloat16 else tensor  # numpy has no bfloat16
    array: np.ndarray = tensor.detach().cpu().numpy()
    return array


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
