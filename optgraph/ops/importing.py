"""What the operators' ONNX handlers share."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper

from optgraph.base.errors import ModelError
from optgraph.ir.op import Importer

FOR_INFERENCE = "export the model for inference (model.eval())"


class KeepError(Exception):
    """This use of an ONNX operator has no form of ours: a handler raises it, and the node stays Opaque."""


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes as Python values; strings decoded, tensors and graphs left as protos."""
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in values.items()}


def require_floating(importer: Importer, name: str) -> None:
    """Raises KeepError for a value of another type of numbers."""
    if not importer.dtype(name).startswith(("float", "bfloat")):
        raise KeepError


def given(node: onnx.NodeProto, slot: int) -> str:
    """The name in an input slot, '' if absent."""
    return node.input[slot] if slot < len(node.input) else ""


def constant_operand(importer: Importer, node: onnx.NodeProto, slot: int) -> np.ndarray | None:
    """The array of an optional input, None if absent. Raises KeepError if it is computed as the model runs."""
    name = given(node, slot)
    if not name:
        return None
    array = importer.constant(name)
    if array is None:
        raise KeepError
    return array


def axis_of(axis: int, rank: int) -> int:
    """`axis`, counted from the front. Raises ModelError if there is none such."""
    if not -rank <= axis < rank:
        raise ModelError(f"axis {axis} of a tensor of rank {rank}")
    return axis % rank


def axes_of(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any], rank: int) -> list[int] | None:
    """The `axes` of a node, attribute or second input, counted from the front; None if it names none."""
    array = constant_operand(importer, node, 1)
    axes = attrs.get("axes") if array is None else array.reshape(-1).tolist()
    return None if axes is None else [axis_of(int(a), rank) for a in axes]
