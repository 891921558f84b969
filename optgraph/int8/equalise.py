"""Ranges of channels brought together between two convolutions.

    conv2(act(conv1(x)))  ->  the same with  w1[c] / s[c],  b1[c] / s[c],  w2[:, c] * s[c]

Legal for any s > 0 if act(x / s) = act(x) / s, as for none, a Relu, a LeakyRelu. With s = sqrt(r1 / r2), where r1 and
r2 are the ranges of a channel in w1 and w2, both become sqrt(r1 * r2). What lies between has one scale for all
channels, so that one far wider than the others, or far narrower, costs all of them. Where folding a batchnorm left
channels whose ranges differ a hundred times it is worth a lot, elsewhere hardly anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from optgraph.onnx.stripped import copied

ROUNDS = 10  # a convolution may be in two pairs
UNEVEN = 8.0  # how far channels' ranges are apart, at least, for it to be worth trying
_ACTIVATIONS = ("Relu", "LeakyRelu")


def equalised(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """A copy of `model`, in which each Conv has a bias of its own, with such weights; None if it is not worth it."""
    pairs = list(_pairs(model.graph))
    names = {name for pair in pairs for conv in pair for name in conv.input[1:3]}
    tensors = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name in names}
    arrays = {name: numpy_helper.to_array(tensor).astype(np.float64) for name, tensor in tensors.items()}
    apart = 1.0
    for _ in range(ROUNDS):
        for first, second in pairs:
            w1, bias, w2 = (arrays[name] for name in (*first.input[1:3], second.input[1]))
            axis = 0 if _groups(second) > 1 else 1
            r1, r2 = _ranges(w1, 0), _ranges(w2, axis)
            scale = np.where((r1 > 0) & (r2 > 0), np.sqrt(r1 / np.where(r2 > 0, r2, 1)), 1.0)
            apart = max(apart, float(scale.max() / scale.min()))
            arrays[first.input[1]] = w1 / _along(scale, 0, w1.ndim)
            arrays[first.input[2]] = bias / scale
            arrays[second.input[1]] = w2 * _along(scale, axis, w2.ndim)
    if apart <= UNEVEN:
        return None
    new = copied(model)
    for tensor in new.graph.initializer:
        if tensor.name in arrays:
            tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name].astype(np.float32), tensor.name))
    return new


def _pairs(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """Convolutions one behind the other, with an activation that scales between them, or none."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in graph.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    uses = Counter(name for node in graph.node for name in node.input)

    def after(node: onnx.NodeProto) -> onnx.NodeProto | None:
        found = readers.get(node.output[0], [])
        return found[0] if len(found) == 1 and uses[node.output[0]] == 1 and node.output[0] not in outputs else None

    for first in graph.node:
        if first.op_type != "Conv":
            continue
        second = after(first)
        if second is not None and second.op_type in _ACTIVATIONS:
            second = after(second)
        if second is None or second.op_type != "Conv" or second.input[0] in constants:
            continue
        own = [*first.input[1:3], second.input[1]]
        if len(own) < 3 or any(name not in constants or uses[name] != 1 for name in own):
            continue
        w2 = constants[second.input[1]].dims
        if _groups(second) in (1, w2[0]) and w2[1] * _groups(second) == constants[first.input[1]].dims[0]:
            yield first, second


def _groups(conv: onnx.NodeProto) -> int:
    return next((int(attribute.i) for attribute in conv.attribute if attribute.name == "group"), 1)


def _ranges(w: np.ndarray, axis: int) -> np.ndarray:
    return np.asarray(np.abs(np.moveaxis(w, axis, 0)).reshape(w.shape[axis], -1).max(1))


def _along(vector: np.ndarray, axis: int, rank: int) -> np.ndarray:
    return vector.reshape([-1 if i == axis else 1 for i in range(rank)])
