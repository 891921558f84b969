"""ONNX operator -> its torch function, for the nodes of a graph as it runs and for constants at import."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import torch
from torch import Tensor

from optgraph.base.arrays import to_array, to_tensor
from optgraph.ir.op import Inputs, Outputs
from optgraph.ops.importing import attributes
from optgraph.ops.standard import (
    arithmetic,
    indexing,
    moving,
    normalising,
    quantised,
    recurrent,
    reducing,
    sampling,
    shapes,
    unary,
    windows,
)
from optgraph.ops.standard.form import Form, Function, OutsideTorchError

FUNCTIONS: Mapping[str, Function] = {
    **arithmetic.FUNCTIONS,
    **indexing.FUNCTIONS,
    **moving.FUNCTIONS,
    **normalising.FUNCTIONS,
    **quantised.FUNCTIONS,
    **recurrent.FUNCTIONS,
    **reducing.FUNCTIONS,
    **sampling.FUNCTIONS,
    **shapes.FUNCTIONS,
    **unary.FUNCTIONS,
    **windows.FUNCTIONS,
}
_OLDEST = 7  # the opset whose operators are as we know them, if not older ones
# Known as they were before it, too: by their `axis` where they broadcast.
_OLDER = frozenset(
    ("Add", "And", "AveragePool", "Div", "Equal", "Gemm", "Greater", "Less", "Mul", "Or", "Pow", "Sub", "Xor")
)

_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)  # torch stores these but computes little in them


def torch_function(node: onnx.NodeProto, opset: int) -> Callable[[Inputs], Outputs] | None:
    """The torch function of a node of ONNX's own domain, in its opset; None if the table has none.

    It takes a tensor an input of the node, None for an absent one, and gives one an output. Unsigned integers of 16
    bits and more may come out as int64, for the caller to store as what they are. It raises OutsideTorchError for a
    use of the operator that it cannot do.
    """
    function = FUNCTIONS.get(node.op_type)
    if function is None or _changed(node.op_type, opset):
        return None
    form = Form(attributes(node), opset, len(node.output))

    def call(inputs: Inputs) -> Outputs:
        results = function(form, *(inputs if node.op_type in quantised.FUNCTIONS else map(_computed, inputs)))
        return results if isinstance(results, tuple) else (results,)

    return call


def _changed(op_type: str, opset: int) -> bool:
    """Whether the operator meant something else before the oldest opset that we know."""
    if opset >= _OLDEST or op_type in _OLDER:
        return False
    since = [onnx.defs.get_schema(op_type, version, "").since_version for version in (opset, _OLDEST)]
    return since[0] != since[1]


def _computed(tensor: Tensor | None) -> Tensor | None:
    """In a type that torch computes in."""
    if tensor is None or tensor.dtype not in _UNSIGNED:
        return tensor
    wide = tensor.to(torch.int64)
    if tensor.dtype == torch.uint64 and bool((wide < 0).any()):
        raise OutsideTorchError("integers of 2^63 and more")
    return wide


def evaluate(node: onnx.NodeProto, opset: int, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray] | None:
    """The outputs of a node of ONNX's own domain on constants, None standing for an absent input.

    Each in the type that ONNX says. None if the node cannot be computed here, or fails.
    """
    call = torch_function(node, opset)
    unsigned = any(a is not None and str(a.dtype) in ("uint16", "uint32", "uint64") for a in arrays)
    if call is None or (unsigned and node.op_type not in quantised.FUNCTIONS):
        return None
    try:
        return [to_array(result) for result in call([None if a is None else to_tensor(a) for a in arrays])]
    except Exception:  # whatever torch says: the node stays in the graph, which says what is wrong when it is run
        return None
