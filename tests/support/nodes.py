"""ONNX nodes and weights, named as they are added: what networks made for tests begin with."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper


class Nodes:
    nodes: list[onnx.NodeProto]
    weights: dict[str, np.ndarray]

    def node(self, op_type: str, *inputs: str, outputs: int = 1, **attrs: Any) -> str:
        """Adds a node; returns its first output, `<name>`, the next being `<name>.1`."""
        name = f"{op_type.lower()}{len(self.nodes)}"
        names = [name, *(f"{name}.{i}" for i in range(1, outputs))]
        self.nodes.append(helper.make_node(op_type, list(inputs), names, name=name, **attrs))
        return name

    def weight(self, array: Any, dtype: Any = np.float32) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = np.asarray(array, dtype)
        return name
