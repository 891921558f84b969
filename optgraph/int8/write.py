"""A float model with its QuantizeLinear and DequantizeLinear, by `onnxruntime.quantization`.

Activations are uint8 with a zero of their own, a scale a tensor; weights int8 around 0, a scale a channel or one;
biases int32 of the product of both scales. A Relu or a Clip is left out where the grid behind it cuts off as it does.
What Gemm and MatMul give is on a grid only if something in integers reads it: a network answers in float.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from optgraph.int8.ranges import OPERATORS
from optgraph.onnx.stripped import copied

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
WEIGHTED = ("Conv", "ConvTranspose", "Gemm")
IN_FLOAT = ["Gemm", "MatMul"]  # what may answer in float


@dataclass(frozen=True)
class Writer:
    """What a network in int8 is written of.

    ranges: of the float model. per_channel: a scale for each channel of a weight. reduce_range: weights of 7 bits.
    source: the model whose metadata and producer are kept, for what is done to pictures goes by them.
    """

    ranges: Any
    per_channel: bool
    reduce_range: bool
    source: onnx.ModelProto

    def write(self, model: onnx.ModelProto, keep: Iterable[str] = ()) -> onnx.ModelProto:
        """`model`, which has the shapes of its values, in int8, but for the nodes of these names."""
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.calibrate import TensorsData
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        ranges = TensorsData(self.ranges.calibration_method, dict(self.ranges.items()))  # of which some are changed
        options = {"OpTypesToExcludeOutputQuantization": IN_FLOAT, "MatMulConstBOnly": True}
        types = QuantType.QInt8, QuantType.QUInt8
        nodes: tuple[Sequence[str], ...] = [], list(keep)
        quantizer = QDQQuantizer(
            copied(model), self.per_channel, self.reduce_range, *types, ranges, *nodes, list(OPERATORS), options
        )
        quantizer.quantize_model()
        _leave_in_float(quantizer.model.model.graph)
        quantizer.model.topological_sort()
        written: onnx.ModelProto = quantizer.model.model
        del written.graph.value_info[:]
        written.producer_name, written.producer_version = self.source.producer_name, self.source.producer_version
        del written.metadata_props[:]
        written.metadata_props.extend(self.source.metadata_props)
        return written


def _leave_in_float(graph: onnx.GraphProto) -> None:
    """Puts a Sum of one term, which ends the pattern, between what is in float and the grid behind it.

    ONNX Runtime would make a float weight between two grids an int8 one with one scale (see `onnx/ort_faults.py`), and
    sessions that others open do.
    """
    floats = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    producer = {name: node for node in graph.node for name in node.output}
    for quantize in [node for node in graph.node if node.op_type == QUANTIZE]:
        name = quantize.input[0]
        node = producer.get(name)
        while node is not None and node.op_type in ("Relu", "Clip"):
            node = producer.get(node.input[0])
        if node is not None and node.op_type in WEIGHTED and node.input[1] in floats:
            quantize.input[0] = f"{name}/float"
            graph.node.append(onnx.helper.make_node("Sum", [name], [quantize.input[0]], name=f"{name}/Sum"))
