"""Shape arithmetic at import: small tensors whose elements are dimensions, computed with a symbolic batch.

Exporters spell `x.view(x.size(0), -1)` as Shape -> Gather -> Unsqueeze -> Concat -> Reshape. Evaluating such chains
on arrays of numbers and symbols lets the batch stay one: Concat(['N'], [-1]) is the vector ['N', -1]. What an element
may be, and the arithmetic on two, is in `symbols.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from optgraph.onnx import symbols
from optgraph.onnx.symbols import UnknownError

MAX_ELEMENTS = 1024  # a shape, a pad or an axes vector is far smaller; anything larger is data

Vector = np.ndarray  # of dtype object
_Function = Callable[[Mapping[str, Any], Sequence[Vector | None]], Vector]


def as_vector(array: np.ndarray) -> Vector | None:
    """A constant as a vector of dimensions; None if it is data."""
    if array.size > MAX_ELEMENTS or array.dtype.kind not in "iubf":
        return None
    if array.dtype.kind != "f":
        return array.astype(int if array.dtype.kind == "b" else array.dtype).astype(object)
    vector = np.empty(array.size, dtype=object)
    vector[:] = list(array.flat)  # as scalars of its type; there are many, for biases look like sizes too
    return vector.reshape(array.shape)


def evaluate(op_type: str, attrs: Mapping[str, Any], inputs: Sequence[Vector | None], dtype: str) -> Vector | None:
    """The value of one shape-arithmetic node, None where it is not one or an operand is unknown.

    dtype: of its output. Raises nothing: what is no such value stays in the graph.
    """
    function = _FUNCTIONS.get(op_type)
    if function is None or not inputs or inputs[0] is None:
        return None
    try:
        kind = np.dtype(dtype)
        result = np.asarray(function(attrs, inputs), dtype=object)  # numpy makes a number of what has no dimension
        return _of(kind, result) if result.size <= MAX_ELEMENTS and kind.kind in "iubf" else None
    except (UnknownError, TypeError, ValueError, IndexError, ArithmeticError):
        return None


def _of(kind: np.dtype[Any], array: np.ndarray) -> Vector:
    """Its elements as numbers of that type: a float's scalars, or ints. Symbols stay: they are whole and positive."""
    vector = np.empty(array.shape, dtype=object)
    for index, d in np.ndenumerate(array):
        if kind.kind == "b":
            vector[index] = 1 if symbols.is_symbol(d) else int(bool(d))
        elif symbols.is_symbol(d):
            vector[index] = d
        elif kind.kind == "f":
            vector[index] = kind.type(d)
        else:
            vector[index] = int(d)  # truncated, as a Cast does
            if not np.iinfo(kind).min <= vector[index] <= np.iinfo(kind).max:
                raise UnknownError
    return vector


def _ints(vector: Vector | None) -> list[int]:
    return [int(d) for d in _numbers(vector)]


def _numbers(vector: Vector | None) -> list[Any]:
    if any(map(symbols.is_symbol, _known(vector).flat)):
        raise UnknownError
    return list(_known(vector).flat)


def _axes(attrs: Mapping[str, Any], inputs: Sequence[Vector | None]) -> list[int] | None:
    if len(inputs) > 1:
        return _ints(inputs[1])
    return list(attrs["axes"]) if "axes" in attrs else None


def _known(vector: Vector | None) -> Vector:
    if vector is None:
        raise UnknownError
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
    if np.prod(shape, dtype=np.float64) > MAX_ELEMENTS:
        raise UnknownError
    return np.full(shape, fill.item(), dtype=object)


def _product(attrs: Mapping[str, Any], inputs: Sequence[Vector | None]) -> Vector:
    product: Any = 1
    for d in _known(inputs[0]).flat:
        product = symbols.multiply(product, d)
    return np.array([product] if attrs.get("keepdims", 1) else product, dtype=object)


def _elementwise(function: Callable[[Any, Any], Any]) -> _Function:
    """Of two operands; of one or more for what ONNX defines so, Max and Min."""

    def apply(attrs: Mapping[str, Any], inputs: Sequence[Vector | None]) -> Vector:
        result = _known(inputs[0])
        for other in inputs[1:]:
            a, b = np.broadcast_arrays(result, _known(other))
            numbers = [function(p, q) for p, q in zip(a.flat, b.flat, strict=True)]
            result = np.array(numbers, dtype=object).reshape(a.shape)
        return result

    return apply


def _each(function: Callable[[Any], Any]) -> _Function:
    """Of the numbers; a symbol is whole and positive, and stays."""

    def apply(attrs: Mapping[str, Any], inputs: Sequence[Vector | None]) -> Vector:
        x = _known(inputs[0])
        numbers = [d if symbols.is_symbol(d) else function(d) for d in x.flat]
        return np.array(numbers, dtype=object).reshape(x.shape)

    return apply


def _expand(attrs: Mapping[str, Any], inputs: Sequence[Vector | None]) -> Vector:
    x, shape = _known(inputs[0]), _ints(inputs[1])
    if np.prod(shape, dtype=np.float64) > MAX_ELEMENTS:
        raise UnknownError
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(shape)))


def _where(attrs: Mapping[str, Any], inputs: Sequence[Vector | None]) -> Vector:
    condition = np.array(_ints(inputs[0]), dtype=bool).reshape(_known(inputs[0]).shape)
    return np.where(condition, _known(inputs[1]), _known(inputs[2]))


def _same(attrs: Mapping[str, Any], inputs: Sequence[Vector | None]) -> Vector:
    return _known(inputs[0])


_FUNCTIONS: dict[str, _Function] = {
    "Identity": _same,
    "Cast": _same,
    "CastLike": _same,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Gather": _gather,
    "Concat": _concat,
    "Slice": _slice,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Expand": _expand,
    "ConstantOfShape": _constant_of_shape,
    "ReduceProd": _product,
    "Floor": _each(np.floor),
    "Ceil": _each(np.ceil),
    "Neg": lambda attrs, inputs: -np.array(_numbers(inputs[0]), dtype=object).reshape(_known(inputs[0]).shape),
    "Add": _elementwise(symbols.add),
    "Sub": _elementwise(symbols.subtract),
    "Mul": _elementwise(symbols.multiply),
    "Div": _elementwise(symbols.divide),
    "Max": _elementwise(symbols.largest),
    "Min": _elementwise(symbols.smallest),
    "Equal": _elementwise(symbols.equal),
    "Less": _elementwise(symbols.less),
    "Greater": _elementwise(lambda a, b: symbols.less(b, a)),
    "LessOrEqual": _elementwise(lambda a, b: not symbols.less(b, a)),
    "GreaterOrEqual": _elementwise(lambda a, b: not symbols.less(a, b)),
    "Where": _where,
}

OPERATORS = frozenset(_FUNCTIONS)
