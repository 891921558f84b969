"""Shape arithmetic at import: small integer tensors whose elements are dimensions, computed with a symbolic batch.

Exporters spell `x.view(x.size(0), -1)` as Shape -> Gather -> Unsqueeze -> Concat -> Reshape. Evaluating such chains
on arrays of `int | str` lets the batch stay a symbol: Concat(['N'], [-1]) is the vector ['N', -1].
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

MAX_ELEMENTS = 1024  # a shape, a pad or an axes vector is far smaller; anything larger is data

Vector = np.ndarray  # of dtype object, elements int or str


def as_vector(array: np.ndarray) -> Vector | None:
    """An integer (or boolean) constant as a vector of dimensions; None if it is data."""
    if array.dtype.kind not in "iub" or array.size > MAX_ELEMENTS:
        return None
    return array.astype(np.int64).astype(object)


def evaluate(op_type: str, attrs: Mapping[str, Any], inputs: Sequence[Vector | None]) -> Vector | None:
    """The value of one shape-arithmetic node, None where it is not one or an operand is unknown.

    Symbols pass through data movement; arithmetic keeps them only where it is neutral (N * 1, N + 0, N / 1).
    """
    function = _FUNCTIONS.get(op_type)
    if function is None or not inputs or inputs[0] is None:
        return None
    try:
        result = function(attrs, inputs)
    except (_UnknownError, TypeError, ValueError, IndexError, ZeroDivisionError):
        return None
    return result if result is not None and result.size <= MAX_ELEMENTS else None


class _UnknownError(Exception):
    """An operand or a combination that has no symbolic value."""


def _ints(vector: Vector | None) -> list[int]:
    if vector is None or any(isinstance(d, str) for d in vector.flat):
        raise _UnknownError
    return [int(d) for d in vector.flat]


def _axes(attrs: Mapping[str, Any], inputs: Sequence[Vector | None]) -> list[int] | None:
    if len(inputs) > 1:
        return _ints(inputs[1])
    return list(attrs["axes"]) if "axes" in attrs else None


def _known(vector: Vector | None) -> Vector:
    if vector is None:
        raise _UnknownError
    return vector


def _unsqueeze(attrs: Mapping[str, Any], inputs: Sequence[Vector | None]) -> Vector:
    return np.expand_dims(_known(inputs[0]), tuple(_axes(attrs, inputs) or ()))


def _squeeze(attrs: Mapping[str, Any], inputs: Sequence[Vector | None]) -> Vector:
    axes = _axes(attrs, inputs)
    return np.squeeze(_known(inputs[0]), tuple(axes) if axes is not None else None)


def _gather(attrs: Mapping[str, Any], inputs: Sequence[Vector | None]) -> Vector:
    index = np.array(_ints(inputs[1]), dtype=np.int64).reshape(_known(inputs[1]).shape)
    taken = np.take(_known(inputs[0]), index, axis=int(attrs.get("axis", 0)))
    return taken if isinstance(taken, np.ndarray) else np.array(taken, dtype=object)


def _concat(attrs: Mapping[str, Any], inputs: Sequence[Vector | None]) -> Vector:
    return np.concatenate([_known(v) for v in inputs], axis=int(attrs["axis"]))


def _slice(attrs: Mapping[str, Any], inputs: Sequence[Vector | None]) -> Vector:
    x = _known(inputs[0])
    if len(inputs) > 1:
        starts, ends = _ints(inputs[1]), _ints(inputs[2])
        axes = _ints(inputs[3]) if len(inputs) > 3 and inputs[3] is not None else list(range(len(starts)))
        steps = _ints(inputs[4]) if len(inputs) > 4 and inputs[4] is not None else [1] * len(starts)
    else:
        starts, ends = list(attrs["starts"]), list(attrs["ends"])
        axes, steps = list(attrs.get("axes", range(len(starts)))), [1] * len(starts)
    index = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        stop = None if step < 0 and end < -x.shape[axis] else end
        index[axis] = slice(start, stop, step)
    return x[tuple(index)]


def _reshape(attrs: Mapping[str, Any], inputs: Sequence[Vector | None]) -> Vector:
    x, shape = _known(inputs[0]), _ints(inputs[1])
    return x.reshape([x.shape[i] if d == 0 and not attrs.get("allowzero") else d for i, d in enumerate(shape)])


def _transpose(attrs: Mapping[str, Any], inputs: Sequence[Vector | None]) -> Vector:
    return np.transpose(_known(inputs[0]), attrs.get("perm"))


def _constant_of_shape(attrs: Mapping[str, Any], inputs: Sequence[Vector | None]) -> Vector:
    from onnx import numpy_helper

    shape = _ints(inputs[0])
    fill = numpy_helper.to_array(attrs["value"]) if "value" in attrs else np.zeros(1, np.float32)
    if fill.dtype.kind not in "iub" or np.prod(shape, dtype=np.float64) > MAX_ELEMENTS:
        raise _UnknownError
    return np.full(shape, int(fill.item()), dtype=object)


def _cast(attrs: Mapping[str, Any], inputs: Sequence[Vector | None]) -> Vector:
    from onnx import helper

    if helper.tensor_dtype_to_np_dtype(attrs["to"]).kind not in "iu":
        raise _UnknownError
    return _known(inputs[0])


def _product(attrs: Mapping[str, Any], inputs: Sequence[Vector | None]) -> Vector:
    product: Any = 1
    for d in _known(inputs[0]).flat:
        product = _multiply(product, d)
    return np.array([product] if attrs.get("keepdims", 1) else product, dtype=object)


def _multiply(a: Any, b: Any) -> Any:
    if isinstance(a, str) or isinstance(b, str):
        return _neutral(a, b, 1)
    return a * b


def _add(a: Any, b: Any) -> Any:
    if isinstance(a, str) or isinstance(b, str):
        return _neutral(a, b, 0)
    return a + b


def _neutral(a: Any, b: Any, unit: int) -> Any:
    if b == unit:
        return a
    if a == unit:
        return b
    raise _UnknownError


def _subtract(a: Any, b: Any) -> Any:
    if isinstance(a, str) or isinstance(b, str):
        if b == 0:
            return a
        raise _UnknownError
    return a - b


def _divide(a: Any, b: Any) -> Any:
    if isinstance(a, str) or isinstance(b, str):
        if b == 1:
            return a
        raise _UnknownError
    quotient = abs(a) // abs(b)  # ONNX integer division truncates
    return quotient if (a < 0) == (b < 0) else -quotient


def _size(attrs: Mapping[str, Any], inputs: Sequence[Vector | None]) -> Vector:
    return np.array(_known(inputs[0]).size, dtype=object)


def _elementwise(function: Callable[[Any, Any], Any]) -> Callable[[Mapping[str, Any], Sequence[Vector | None]], Vector]:
    def apply(attrs: Mapping[str, Any], inputs: Sequence[Vector | None]) -> Vector:
        a, b = np.broadcast_arrays(_known(inputs[0]), _known(inputs[1]))
        return np.array([function(p, q) for p, q in zip(a.flat, b.flat, strict=True)], dtype=object).reshape(a.shape)

    return apply


def _where(attrs: Mapping[str, Any], inputs: Sequence[Vector | None]) -> Vector:
    condition = np.array(_ints(inputs[0]), dtype=bool).reshape(_known(inputs[0]).shape)
    return np.where(condition, _known(inputs[1]), _known(inputs[2]))


_FUNCTIONS: dict[str, Callable[[Mapping[str, Any], Sequence[Vector | None]], Vector]] = {
    "Identity": lambda attrs, inputs: _known(inputs[0]),
    "Cast": _cast,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Gather": _gather,
    "Concat": _concat,
    "Slice": _slice,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "ConstantOfShape": _constant_of_shape,
    "ReduceProd": _product,
    "Size": _size,
    "Neg": lambda attrs, inputs: -np.array(_ints(inputs[0]), dtype=object).reshape(_known(inputs[0]).shape),
    "Add": _elementwise(_add),
    "Sub": _elementwise(_subtract),
    "Mul": _elementwise(_multiply),
    "Div": _elementwise(_divide),
    "Equal": _elementwise(operator.eq),
    "Where": _where,
}

OPERATORS = frozenset(_FUNCTIONS)
