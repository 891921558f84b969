"""The float network to be quantised: simplified, as ONNX and as the graph of that, whose names are the same."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from optgraph.api.net import Net
from optgraph.base.errors import InputError, ModelError
from optgraph.int8.correct import with_biases
from optgraph.int8.equalise import equalised
from optgraph.int8.write import DEQUANTIZE, QUANTIZE
from optgraph.ir.graph import Graph
from optgraph.onnx import read
from optgraph.onnx.write import ModelWriter


@dataclass(frozen=True)
class FloatModel:
    """model: with the shapes of its values, and a bias for each Conv and Gemm. origins: node -> the nodes of the
    original model that it stands for."""

    model: onnx.ModelProto
    graph: Graph
    origins: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, net: Net) -> FloatModel:
        """Raises ModelError for a model that is in integers already, or not in float32."""
        writer = ModelWriter(net.simplified)
        model = writer.export()
        for node in model.graph.node:
            if node.op_type in (QUANTIZE, DEQUANTIZE) or node.op_type.startswith("QLinear"):
                what = f"node '{node.name}' ({node.op_type}): the model is quantised already"
                raise ModelError(what, "give the float model")
        types = {str(array.dtype) for array in net.simplified.constants.values() if array.ndim > 1}
        for other in sorted(types & {"float16", "bfloat16", "float64"}):
            raise ModelError(f"the model has weights of {other}", "give it in float32")
        with_biases(model)
        model = onnx.shape_inference.infer_shapes(model)
        origins = {proto: net.simplified.node(name).origin for proto, name in writer.written.items()}
        return cls(model, read.read(model, budget=net.simplified.budget), origins)

    def equalised(self) -> FloatModel | None:
        """The same function of other weights, whose channels' ranges are closer; None where they are close."""
        model = equalised(self.model)
        return None if model is None else FloatModel(model, read.read(model, budget=self.graph.budget), self.origins)

    def named(self, keep: Sequence[str]) -> list[str]:
        """The nodes that ONNX nodes of these names became. Raises InputError for a name that none has."""
        known = {origin for names in self.origins.values() for origin in names} | self.origins.keys()
        for name in keep:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
                remedy = f"close are {', '.join(close)}" if close else "the table of losses lists them"
                raise InputError(f"keep '{name}': no layer stands for an ONNX node of this name: {remedy}")
        chosen = set(keep)
        return [node for node, names in self.origins.items() if node in chosen or not chosen.isdisjoint(names)]
