"""The numbers in a model file: initializers and Constant nodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from optgraph.base.budget import Budget
from optgraph.base.errors import ModelError
from optgraph.onnx.external_data import is_external, is_stripped
from optgraph.onnx.inputs import require_dtype

# What reading a damaged proto raises: a wrong number of inputs, an attribute of another type. There are more ways than
# are worth a check each.
MALFORMED = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError)


def malformed(error: Exception) -> ModelError:
    """What a person is told of one of MALFORMED."""
    found = f"{type(error).__name__}: {error}".splitlines()[0]
    return ModelError(f"not as ONNX defines it ({found})", "export the model again")


def tensor_array(tensor: TensorProto, budget: Budget, stand_in: float | None) -> np.ndarray:
    """The data of a tensor; where it is not in the file, the number `stand_in` throughout.

    Raises ModelError if it is damaged, of a type that we do not compute with, or, without a stand-in, not there.
    """
    if any(d < 0 for d in tensor.dims):
        raise ModelError(f"weight '{tensor.name}' has a negative dimension")
    if is_external(tensor):
        if stand_in is None:
            reason = "was stripped from this file" if is_stripped(tensor) else "is in a file that was not loaded"
            remedy = "fill it with `optgraph calibrate`" if is_stripped(tensor) else "give the path of the model"
            raise ModelError(f"weight '{tensor.name}' {reason}", remedy)
        budget.check("arena_bytes", 4 * math.prod(tensor.dims), f"weight '{tensor.name}' is too large")
        number = np.array(stand_in, helper.tensor_dtype_to_np_dtype(tensor.data_type))
        return np.broadcast_to(number, tuple(tensor.dims))
    try:
        array = numpy_helper.to_array(tensor)
    except MALFORMED as error:
        raise malformed(error).at(f"weight '{tensor.name}' is damaged") from None
    require_dtype(str(array.dtype))
    return array


def constant_array(attrs: Mapping[str, Any], read: Callable[[TensorProto], np.ndarray]) -> np.ndarray:
    """What a Constant node of these attributes holds. Raises ModelError for strings and sparse tensors."""
    for key, value in attrs.items():
        if key == "value":
            return read(value)
        if key in ("value_float", "value_floats"):
            return np.array(value, dtype=np.float32)
        if key in ("value_int", "value_ints"):
            return np.array(value, dtype=np.int64)
        raise ModelError(f"a constant given as {key} is not supported", "export it as a tensor", key)
    raise ModelError("a constant without a value")
