"""ONNX's backend interface, so that `onnx.backend.test.BackendTest` and whatever else knows it can run us.

    globals().update(onnx.backend.test.BackendTest(optgraph.adapters.onnx_backend.OptgraphBackend).test_cases)

What we refuse raises unittest.SkipTest with the reason, not BackendIsNotSupposedToImplementIt, which the suite counts
as passed.

A node test feeds everything as inputs, weights and shapes too, which in a network are constants. So a model is
compiled when it is first run: the inputs that operators read as parameters become constants of that run, and the
others get their shapes.
"""

from __future__ import annotations

import unittest
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from onnx.backend.base import Backend, BackendRep, namedtupledict

from optgraph import ops
from optgraph.api import compiling
from optgraph.api.net import Net
from optgraph.base import config
from optgraph.base.arrays import to_array, to_tensor
from optgraph.base.dtypes import ITEMSIZE
from optgraph.base.errors import OptgraphError
from optgraph.onnx import read

Inputs = np.ndarray | Sequence[np.ndarray] | Mapping[str, np.ndarray]

# All inputs of these are data; of any other operator, what comes after the first are weights, shapes, axes, bounds.
_ALL_DATA = frozenset(
    (
        *("Add", "Div", "Max", "Mean", "Min", "Mod", "Mul", "Pow", "Sub", "Sum"),
        *("And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Or", "Where", "Xor"),
        *("Concat", "Einsum", "MatMul"),
    )
)
_NO_DATA = frozenset(("ConstantOfShape", "Range"))  # a shape, three bounds


class OptgraphBackend(Backend):
    """optgraph as an ONNX backend.

    On 'CPU' the backend is OPTGRAPH_ONNX_BACKEND, by default 'torch', or what the keyword `backend` says; on 'CUDA' it
    is the kernels.
    """

    @classmethod
    def supports_device(cls, device: str) -> bool:
        kind = device.partition(":")[0]
        return kind == "CPU" or (kind == "CUDA" and torch.cuda.is_available())

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> OptgraphRep:
        """Checks the model; it is compiled at the first run. Raises unittest.SkipTest for what we do not support."""
        if not cls.supports_device(device):
            raise unittest.SkipTest(f"no device {device} here")
        default = config.onnx_backend() if device == "CPU" else "triton"
        onnx.checker.check_model(model)
        return OptgraphRep(model, kwargs.get("backend", default))

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Inputs,
        device: str = "CPU",
        outputs_info: Sequence[tuple[np.dtype[Any], tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """Runs one operator; opset_version: of it, by default the newest. Raises as `prepare` and `run`."""
        names = list(dict.fromkeys(name for name in node.input if name))
        feeds = inputs if isinstance(inputs, Mapping) else dict(zip(names, _listed(inputs), strict=True))
        graph = helper.make_graph(
            [node],
            node.op_type,
            [_value_info(name, array) for name, array in feeds.items()],
            [helper.make_empty_tensor_value_info(name) for name in node.output if name],
        )
        opset = helper.make_opsetid(node.domain, kwargs.pop("opset_version", onnx.defs.onnx_opset_version()))
        return OptgraphRep(
            helper.make_model(graph, opset_imports=[opset]), kwargs.get("backend", config.onnx_backend())
        ).run(feeds)


class OptgraphRep(BackendRep):
    """A model to be run; compiled for the parameters and shapes of the last run.

    runs:   how often it has answered.
    helped: after a run, the operators that were not wholly ours: with kernels, those that fell back to torch; else
            those that ONNX's own reference evaluator ran.
    """

    def __init__(self, model: onnx.ModelProto, backend: str) -> None:
        self._model = model
        self._backend = backend
        weights = {tensor.name for tensor in model.graph.initializer}
        self._inputs = [info.name for info in model.graph.input if info.name not in weights]
        self._outputs = [info.name for info in model.graph.output]
        self._parameters = parameters(model, self._inputs)
        self._compiled: tuple[object, Net] | None = None
        self.runs = 0
        self.helped: tuple[str, ...] = ()

    def run(self, inputs: Inputs, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs, in order, also by name.

        inputs: arrays in the order of the model's inputs, or by name.
        Raises unittest.SkipTest for a model or an input that we do not support.
        """
        feeds = dict(inputs) if isinstance(inputs, Mapping) else dict(zip(self._inputs, _listed(inputs), strict=False))
        for name, array in feeds.items():
            if not isinstance(array, np.ndarray | np.generic):
                raise unittest.SkipTest("a sequence or an optional value")
            _check_dtype(str(array.dtype))
            if array.size == 0 and name not in self._parameters:
                raise unittest.SkipTest("an input without elements")
        arrays = {name: np.asarray(array) for name, array in feeds.items()}
        compiled = self._compile(arrays)
        tensors = {name: to_tensor(arrays[name]) if name in arrays else torch.zeros(1) for name in compiled.inputs}
        answer = compiled(tensors)
        results = answer if isinstance(answer, dict) else {self._outputs[0]: answer}
        self.runs += 1
        outputs: tuple[Any, ...] = namedtupledict("Outputs", self._outputs)(
            *(to_array(torch.as_tensor(results[n])) for n in self._outputs)
        )
        return outputs

    def _compile(self, arrays: Mapping[str, np.ndarray]) -> Net:
        key = [
            (name, a.dtype, a.shape, a.tobytes() if name in self._parameters else None) for name, a in arrays.items()
        ]
        if self._compiled is None or self._compiled[0] != key:
            model, shapes = specialised(self._model, arrays, self._parameters)
            try:
                graph = read.read(model, shapes)
                for value in graph.values.values():
                    _check_dtype(value.dtype)
                opsets = {**graph.domains, "": graph.opset}
                opaque = [node.op for node in graph.nodes() if isinstance(node.op, ops.Opaque)]
                helped = {op.kind for op in opaque if op.torch_function(opsets) is None}
                compiled = compiling.compile(model, self._backend, input_shape=shapes)
                if self._backend in ("triton", "interpret"):  # a plan refuses now what the first call would refuse
                    helped = {fallback.op for fallback in compiled.plan().fallbacks}
                self.helped = tuple(sorted(helped))
                self._compiled = key, compiled
            except OptgraphError as error:
                raise unittest.SkipTest(str(error)) from error
        return self._compiled[1]


def _check_dtype(dtype: str) -> None:
    if dtype not in ITEMSIZE:
        raise unittest.SkipTest(f"values of type {'string' if dtype == 'object' else dtype}")


def parameters(model: onnx.ModelProto, inputs: Sequence[str]) -> frozenset[str]:
    """The model inputs that no operator takes as data."""
    data = {output.name for output in model.graph.output}
    for node in model.graph.node:
        data.update(node.input[: len(node.input) if node.op_type in _ALL_DATA else node.op_type not in _NO_DATA])
    return frozenset(inputs) - data


def specialised(
    model: onnx.ModelProto, arrays: Mapping[str, np.ndarray], parameters: frozenset[str]
) -> tuple[onnx.ModelProto, dict[str, tuple[int, ...]]]:
    """The model with its parameters as constants, and the shapes of its other inputs."""
    special = onnx.ModelProto()
    special.CopyFrom(model)
    special.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in arrays.items() if name in parameters
    )
    shapes = {name: array.shape for name, array in arrays.items() if name not in parameters}
    if not shapes:  # a network has an input, even if nothing reads it
        taken = {name for node in model.graph.node for name in (*node.input, *node.output)}
        unused = next(name for name in (f"unused{i}" for i in range(len(taken) + 1)) if name not in taken)
        special.graph.input.append(helper.make_tensor_value_info(unused, onnx.TensorProto.FLOAT, (1,)))
        shapes[unused] = (1,)
    return special, shapes


def _listed(inputs: np.ndarray | Sequence[np.ndarray]) -> list[np.ndarray]:
    return [inputs] if isinstance(inputs, np.ndarray) else list(inputs)


def _value_info(name: str, array: np.ndarray) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
