"""Small ONNX models of kinds that a server has to tell apart, and the interface of its Python backend without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.utils.dlpack import from_dlpack, to_dlpack

T = TensorProto
Info = tuple[str, int, Sequence[int | str]]


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Info],
    outputs: Mapping[str, int],
    constants: Mapping[str, np.ndarray] | None = None,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(*info) for info in inputs],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def kinds() -> onnx.ModelProto:
    """Of x [n, 3, 4, 4]: its mean, a number an image; where it is positive; itself as bfloat16, and as int64."""
    return model(
        [
            helper.make_node("ReduceMean", ["x"], ["y"], axes=[1, 2, 3], keepdims=0),
            helper.make_node("Greater", ["x", "zero"], ["positive"]),
            helper.make_node("Cast", ["x"], ["half"], to=T.BFLOAT16),
            helper.make_node("Cast", ["x"], ["whole"], to=T.INT64),
        ],
        [("x", T.FLOAT, ["n", 3, 4, 4])],
        {"y": T.FLOAT, "positive": T.BOOL, "half": T.BFLOAT16, "whole": T.INT64},
        {"zero": np.zeros(1, np.float32)},
    )


def chosen() -> onnx.ModelProto:
    """x where c, else y."""
    inputs: list[Info] = [("c", T.BOOL, ["n", 4]), ("x", T.FLOAT16, ["n", 4]), ("y", T.FLOAT16, ["n", 4])]
    return model([helper.make_node("Where", ["c", "x", "y"], ["z"])], inputs, {"z": T.FLOAT16})


def coupled() -> onnx.ModelProto:
    """x less the mean of its batch: an image's answer is not its own."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["y"]),
    ]
    return model(nodes, [("x", T.FLOAT, ["n", 3, 4, 4])], {"y": T.FLOAT})


def with_scalar() -> onnx.ModelProto:
    inputs: list[Info] = [("x", T.FLOAT, ["n", 4]), ("s", T.FLOAT, [])]
    return model([helper.make_node("Add", ["x", "s"], ["y"])], inputs, {"y": T.FLOAT})


def with_shared_input() -> onnx.ModelProto:
    """x [n, 4] + a [4]: of two requests, each has its own a."""
    inputs: list[Info] = [("x", T.FLOAT, ["n", 4]), ("a", T.FLOAT, [4])]
    return model([helper.make_node("Add", ["x", "a"], ["y"])], inputs, {"y": T.FLOAT})


class _Tensor:
    def __init__(self, name: str, x: torch.Tensor) -> None:
        self._name, self.x = name, x

    def name(self) -> str:
        return self._name

    def to_dlpack(self) -> Any:
        return to_dlpack(self.x)

    def as_numpy(self) -> None:
        raise AssertionError("of numpy 1")

    @staticmethod
    def from_dlpack(name: str, capsule: Any) -> _Tensor:
        x = from_dlpack(capsule)
        assert x.is_contiguous(), "DLPack tensor is not contiguous"
        return _Tensor(name, x)


class _Error(Exception):
    INTERNAL, INVALID_ARG = 1, 3

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class _Response:
    def __init__(self, output_tensors: Sequence[_Tensor] = (), error: _Error | None = None) -> None:
        self.outputs = {tensor.name(): tensor.x for tensor in output_tensors}
        self.error = error


class Request:
    """A request of these tensors."""

    def __init__(self, **feeds: np.ndarray | torch.Tensor) -> None:
        self._inputs = [_Tensor(name, torch.as_tensor(x)) for name, x in feeds.items()]

    def inputs(self) -> list[_Tensor]:
        return self._inputs


class _Logger:
    lines: list[str]

    def __init__(self) -> None:
        self.lines = []

    def log_info(self, text: str) -> None:
        self.lines.append(text)

    log_error = log_info


def python_backend() -> Any:
    """What a model imports as triton_python_backend_utils; `Logger.lines` has what it logged."""
    module: Any = ModuleType("triton_python_backend_utils")
    module.Tensor, module.TritonError, module.InferenceResponse = _Tensor, _Error, _Response
    module.Logger = _Logger()
    return module
