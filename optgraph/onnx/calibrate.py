"""Fills a stripped ONNX file with deterministic, calibrated weights, so that a graph alone is enough to test on.

Plain random weights make a bad test: signals grow or die with depth and every image gets the same answer. So the
nodes run one by one on a few smooth random images, and each parameter is set when it is reached, as training would:

    weight of Conv, Gemm, MatMul    normal, scaled so that the output has unit variance (LOGIT_STD after a matrix)
    bias                            random, less the mean of the output, so that a channel is around SHIFT deviations
    BatchNormalization, Sub         mean, less the same shift, and variance of what arrives

A parameter that several nodes share keeps its value, for it cannot fit all of them. The structure never changes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from optgraph.base.errors import ModelError
from optgraph.base.images import images
from optgraph.ir.values import channels_last
from optgraph.onnx.external_data import is_stripped
from optgraph.onnx.sessions import session
from optgraph.onnx.stripped import any_stripped, copied, is_float, parameters, store_fills

Array = np.ndarray[Any, np.dtype[Any]]

IMAGES = 4  # fewer, and a network fits only those and amplifies any other
# Channels centred on 0 make a deep ReLU network chaotic: it amplifies rounding a hundredfold, and ONNX Runtime differs
# from itself by 3e-5 between optimisation levels. Around 1.5 it is by less than 7e-6, and images still get answers that
# are about one norm apart.
SHIFT = 1.5
LOGIT_STD = 1.0  # so that a softmax over the outputs is neither flat nor a single one
LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")
VIEWS = ("Identity", "Cast", "CastLike", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze")


def calibrate(model: onnx.ModelProto, seed: int = 0, size: int = 128, refill: bool = False) -> onnx.ModelProto:
    """A copy of `model` with every stripped tensor filled; an unchanged copy if none is.

    seed: of the weights and the images. size: height and width of the images in pixels where the graph leaves them
    open. refill: draw all the weights of Conv, Gemm and MatMul anew, stripped or not, and those that ConstantOfShape
    makes (`store_fills`).
    Raises ModelError if a node cannot be run.
    """
    if refill:
        model = store_fills(model)
    elif not any_stripped(model):
        return copied(model)
    return _Calibration(model, np.random.default_rng(seed), size, refill).fill()


class _Calibration:
    """One run through a graph."""

    def __init__(self, model: onnx.ModelProto, rng: np.random.Generator, size: int, refill: bool) -> None:
        self.model = copied(model)
        self.rng = rng
        self.uses = Counter(name for node in self.model.graph.node for name in node.input)
        self.tensors = parameters(self.model)  # parameters: initializers and Constant nodes, by value name
        self.root = {name: name for name in self.tensors}  # a parameter, or a view of one -> the parameter
        self.views: dict[str, list[str]] = defaultdict(list)
        for node in self.model.graph.node:
            if node.op_type in VIEWS and node.input[0] in self.root:
                self.root[node.output[0]] = self.root[node.input[0]]
        for name, root in self.root.items():
            self.views[root].append(name)

        weights = (
            {self.root.get(n.input[1], "") for n in self.model.graph.node if n.op_type in LINEAR} if refill else ()
        )
        self.values: dict[str, Array] = {}
        self.changed: set[str] = set()
        for name, tensor in self.tensors.items():
            dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
            if is_stripped(tensor) or (name in weights and is_float(dtype)):
                self.changed.add(name)
                self.values[name] = rng.standard_normal(tuple(tensor.dims), np.float32).astype(dtype)
            else:
                self.values[name] = numpy_helper.to_array(tensor)
        self.unscaled = set(self.changed)
        self.depends = {i.name for i in self.model.graph.input if i.name not in self.values}  # on the images
        for value in self.model.graph.input:
            if value.name in self.depends:
                self.values[value.name] = self._picture(value.type.tensor_type, size)

    def _picture(self, tensor: onnx.TypeProto.Tensor, size: int) -> Array:
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if not is_float(dtype):
            raise ModelError(f"cannot calibrate a model with a {dtype} input: inputs must be floating point")
        dims = [d.dim_value for d in tensor.shape.dim]
        shape = tuple(length or (size if axis else IMAGES) for axis, length in enumerate(dims))
        picture = images(self.rng, shape, channels_last(dims)) if len(shape) == 4 else self.rng.standard_normal(shape)
        return picture.astype(dtype)

    def fill(self) -> onnx.ModelProto:
        left = Counter(self.uses)
        left.update(value.name for value in self.model.graph.output)
        for node in self.model.graph.node:
            if node.op_type == "Constant" and node.output[0] in self.tensors:
                continue
            if node.op_type in LINEAR:
                self._set_weight(node)
            elif node.op_type == "BatchNormalization":
                self._set_statistics(node)
            elif node.op_type == "Sub":
                self._set_mean(node)
            self.values.update(self._run(node))
            if not self.depends.isdisjoint(node.input):
                self.depends.update(node.output)
            for name in node.input:
                left[name] -= 1
                if not left[name] and name not in self.tensors:
                    self.values.pop(name, None)
        for name in self.changed:
            tensor = self.tensors[name]
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(self.values[name]), tensor.name))
        return self.model

    def _set_weight(self, node: onnx.NodeProto) -> None:
        root = self.root.get(node.input[1])
        if root not in self.unscaled or node.input[0] not in self.depends:
            return
        self.unscaled.discard(root)
        bias = node.input[2] if len(node.input) > 2 else ""
        zero = {bias: np.zeros_like(self.values[bias])} if bias else {}
        out = self._run(node, zero)[node.output[0]].astype(np.float32)
        image = node.op_type.startswith("Conv")
        channel = 1 if image else out.ndim - 1
        lone = not image and out.shape[0] == 1  # one row says nothing of how rows differ
        others = tuple(axis for axis in range(out.ndim) if axis != channel or lone)
        # Few samples may agree by chance: the rest of the way the channels differ bounds what is made of their spread.
        spread = max(float(out.std(others).mean()), float(np.sqrt(np.mean(out**2))) / 4.0, 1e-6)
        gain = (1.0 if image else LOGIT_STD) / spread
        if not image and not lone and root == node.input[1]:
            self.values[root] = _blind_to(self.values[node.input[0]], self.values[root], _transposed(node))
            out = self._run(node, zero)[node.output[0]].astype(np.float32)
        for name in self.views[root]:
            if name in self.values:
                self.values[name] = (self.values[name] * gain).astype(self.values[name].dtype)
        if self._private(bias) and self.values[bias].size == out.shape[channel]:
            middle = SHIFT if image else 0.0
            self._set(bias, self.rng.normal(middle, 0.2, out.shape[channel]) - out.mean(others) * gain)

    def _set_statistics(self, node: onnx.NodeProto) -> None:
        if node.input[0] not in self.depends:
            return
        x = self.values[node.input[0]].astype(np.float32)
        others = (0, *range(2, x.ndim))
        channels = x.shape[1]
        found = (
            self.rng.normal(1.0, 0.1, channels),
            self.rng.normal(0.0, 0.2, channels),
            x.mean(others) - SHIFT * x.std(others),
            x.var(others),
        )
        for name, value in zip(node.input[1:], found, strict=True):
            if self._private(name):
                self._set(name, value)

    def _set_mean(self, node: onnx.NodeProto) -> None:
        x, constant = node.input
        if x not in self.depends or not self._private(constant):
            return
        have = self.values[x].astype(np.float32)
        shape = (1,) * (have.ndim - self.values[constant].ndim) + self.values[constant].shape
        if len(shape) == have.ndim and sum(length > 1 for length in shape) == 1:  # one value a channel
            others = tuple(axis for axis, length in enumerate(shape) if length == 1)
            self._set(constant, have.mean(others) - SHIFT * have.std(others))

    def _private(self, name: str) -> bool:
        return name in self.tensors and self.uses[name] == 1 and is_float(self.values[name].dtype)

    def _set(self, name: str, value: Array) -> None:
        old = self.values[name]
        self.values[name] = np.broadcast_to(value.reshape(-1), (old.size,)).reshape(old.shape).astype(old.dtype)
        self.changed.add(name)

    def _run(self, node: onnx.NodeProto, instead: dict[str, Array] | None = None) -> dict[str, Array]:
        """The outputs of one node, through ONNX Runtime; `instead` replaces some of its inputs."""
        feed = {name: self.values[name] for name in node.input if name} | (instead or {})
        outputs = [name for name in node.output if name]
        try:
            inputs = [
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
                for name, array in feed.items()
            ]
            graph = helper.make_graph([node], "node", inputs, [onnx.ValueInfoProto(name=name) for name in outputs])
            model = helper.make_model(
                graph,
                opset_imports=self.model.opset_import,
                functions=self.model.functions,
                ir_version=self.model.ir_version,
            )
            running = session(model.SerializeToString(), optimize=False)
            return dict(zip(outputs, running.run(None, feed), strict=True))
        except Exception as error:  # ONNX Runtime has an exception class for each status, and no common base
            what = str(error).splitlines()[0]
            raise ModelError(f"node '{node.name}' ({node.op_type}) cannot be calibrated: {what}") from error


def _blind_to(x: Array, weight: Array, transposed: bool) -> Array:
    """The weight of a matrix product less its answer to the mean of the rows of `x`, which all images share."""
    mean = x.reshape(-1, x.shape[-1]).mean(0, dtype=np.float32)
    mean /= np.linalg.norm(mean) + 1e-6
    rows = weight.T if transposed else weight  # [K, N]
    blind: Array = (rows - np.outer(mean, mean @ rows)).astype(weight.dtype)
    return blind.T if transposed else blind


def _transposed(node: onnx.NodeProto) -> bool:
    return any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
