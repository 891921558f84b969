"""Export: a Graph, simplified or fused, becomes a standard ONNX model.

Model-level work is here: names, initializers, versions, the file. What each operator becomes is its `export`, in
`ops/`; a fused one expands into the chain it stands for. Inputs and outputs keep their public names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from optgraph.base.errors import InputError, ModelError
from optgraph.base.files import replacing
from optgraph.ir.graph import Graph
from optgraph.ir.values import Value
from optgraph.onnx import ort_faults
from optgraph.onnx.functions import call_conv_relu
from optgraph.ops.exporting import OPSET, element
from optgraph.ops.quantised import on_grids

FLOAT16_SCALES_OPSET = 19  # from which on scales of integers are also of float16
BFLOAT16_OPSET = 22  # from which on convolutions and pools are also of bfloat16
WEIGHT_LIMIT = 2**31 - 2**24  # bytes: what protobuf can write, with room for the nodes


def to_onnx(graph: Graph) -> onnx.ModelProto:
    """`graph` as a ModelProto of opset 17, or later where an operator asks for it; weights inside, dtypes kept.

    Raises ModelError, naming the node, for an operator that ONNX has no equivalent of.
    """
    return ModelWriter(graph).export()


def save_onnx(graph: Graph, path: str | Path, functions: bool = False) -> int:
    """Writes `graph` to `path` as ONNX and returns how many nodes it has. A failure leaves what was there before.

    functions: a Conv and its Relu become one call of a function that the model carries (see `functions.py`).
    Raises ModelError as `to_onnx` does and for a model of over 2 GB, InputError if `path` cannot be written.
    """
    path = Path(path)
    if not path.name:
        raise InputError(f"{path}: not a file name")
    weights = sum(array.nbytes for array in graph.constants.values())
    if weights > WEIGHT_LIMIT:
        raise ModelError(
            f"{path}: {weights / 1e9:.1f} GB of weights, and an ONNX file holds 2 GB: save a .optgraph artifact instead"
        )
    model = to_onnx(graph)
    if functions:
        call_conv_relu(model)
    with replacing(path) as file:
        file.write(model.SerializeToString())
    return len(model.graph.node)


class ModelWriter:
    """The state of one export: the `Exporter` of `ir/op.py`, and what is done to the whole model."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.opset = max([OPSET, *(node.op.least_opset(graph.opset) for node in graph.nodes())])
        dtypes = {value.dtype for value in graph.values.values()}
        if "float16" in dtypes and on_grids(graph):
            self.opset = max(self.opset, FLOAT16_SCALES_OPSET)
        if "bfloat16" in dtypes:
            self.opset = max(self.opset, BFLOAT16_OPSET)
        self._model = onnx.ModelProto(producer_name="optgraph")  # filled in place: weights are large
        self._initializers: set[str] = set()
        self._numbers: dict[tuple[str, tuple[int, ...], bytes], str] = {}  # initializers of one number, by what it is
        self._prefix = ""  # of the names of the node being written
        self._start = 0  # where its ONNX nodes begin
        self._taken = {*graph.inputs, *graph.outputs}
        self._node_names: set[str] = set()
        self.written: dict[str, str] = {}  # by the name of an ONNX node, the graph's node that it is of
        self._names = {name: name for name in graph.inputs}  # value -> its ONNX name
        for public, value in graph.outputs.items():
            self._names.setdefault(value, public)

    def export(self) -> onnx.ModelProto:
        graph, proto = self.graph, self._model.graph
        proto.name = graph.name or "graph"
        proto.input.extend(_value_info(name, graph.values[name]) for name in graph.inputs)
        proto.output.extend(_value_info(public, graph.values[value]) for public, value in graph.outputs.items())
        for node in graph.nodes():
            self._prefix, self._start = node.name, len(proto.node)
            try:
                node.op.export(self, node)
            except ModelError as error:
                raise ModelError(f"node '{node.name}' ({node.op.kind}): {error}") from None
        for public, value in graph.outputs.items():
            name = self.name(value)
            if name != public:  # an input, or a value that is an output twice
                self._prefix = public
                self.emit("Identity", [name], [public])
        ort_faults.apart_from_pools(proto)
        versions = {**graph.domains, "": self.opset}
        domains = sorted({"", *(node.domain for node in proto.node)})
        self._model.opset_import.extend(helper.make_opsetid(domain, versions.get(domain, 1)) for domain in domains)
        self._model.ir_version = helper.find_min_ir_version_for(list(self._model.opset_import), ignore_unknown=True)
        return self._model

    # ---- for the operators

    @property
    def source_opset(self) -> int:
        return self.graph.opset

    def value(self, value: str) -> Value:
        """Shape and dtype of a value."""
        return self.graph.values[value]

    def array(self, value: str) -> np.ndarray | None:
        """The array of a constant; None for any other value."""
        return self.graph.constant(value)

    def name(self, value: str) -> str:
        """The ONNX name of a value, '' for an absent one; a constant is written at its first use."""
        if not value:
            return ""
        if value not in self._names:
            self._names[value] = _unique(value, self._taken)
        name = self._names[value]
        if value in self.graph.constants and name not in self._initializers:
            self._write(value, name)
        return name

    def constant(self, array: np.ndarray, hint: str) -> str:
        """The ONNX name of a new initializer; of one number, perhaps one that is there."""
        if array.size != 1:
            return self._initialize(array, self.fresh(hint))
        key = str(array.dtype), array.shape, array.tobytes()  # -0.0 is another number than 0
        if key not in self._numbers:
            self._numbers[key] = self._initialize(array, self.fresh(hint))
        return self._numbers[key]

    def fresh(self, hint: str) -> str:
        """A name for a value inside the node being written."""
        return _unique(f"{self._prefix}/{hint}", self._taken)

    def emit(self, op_type: str, inputs: Sequence[str], outputs: Sequence[str] | None = None, **attrs: Any) -> str:
        """Adds an ONNX node; returns its first output, a fresh name unless given. Absent inputs at the end go."""
        while inputs and not inputs[-1]:
            inputs = inputs[:-1]
        outputs = outputs or [self.fresh(op_type)]
        self.add(helper.make_node(op_type, inputs, outputs, **attrs))
        return outputs[0]

    def add(self, proto: onnx.NodeProto) -> None:
        """Adds a finished node, named after the node being written."""
        name = self._prefix if self._prefix not in self._node_names else f"{self._prefix}/{proto.op_type}"
        proto.name = _unique(name, self._node_names)
        self.written[proto.name] = self._prefix
        self._model.graph.node.append(proto)

    def bind(self, value: str, result: str) -> None:
        """Makes `result`, which nothing has read yet if this node emitted it, the graph's `value`."""
        nodes = self._model.graph.node
        if len(nodes) > self._start and nodes[-1].output[0] == result:
            nodes[-1].output[0] = self.name(value)
        else:
            self.emit("Identity", [result], [self.name(value)])

    def _write(self, constant: str, name: str) -> None:
        """A constant of the graph: as the integers that it was, if it was some."""
        array, grid = self.graph.constants[constant], self.graph.grids.get(constant)
        integers = grid.integers(array) if grid else None
        if grid is None or integers is None:
            self._initialize(array, name)
            return
        self._initializers.add(name)
        scale, zero = np.array(grid.scale, array.dtype), np.array(grid.zero, grid.dtype)
        if len(grid.scale) == 1:
            scale, zero = scale.reshape(()), zero.reshape(())
        # ONNX Runtime wants a zero point of a weight; that of a bias is always 0.
        parts = (integers, scale) if grid.dtype == "int32" and not zero.any() else (integers, scale, zero)
        inputs = [self.constant(part, "integers") for part in parts]
        axis: dict[str, Any] = {"axis": grid.axis} if len(grid.scale) > 1 else {}
        proto = helper.make_node("DequantizeLinear", inputs, [name], **axis)
        proto.name = _unique(f"{name}/DequantizeLinear", self._node_names)
        self.written[proto.name] = self._prefix
        self._model.graph.node.append(proto)

    def _initialize(self, array: np.ndarray, name: str) -> str:
        self._model.graph.initializer.append(numpy_helper.from_array(array, name))
        self._initializers.add(name)
        return name


def _value_info(name: str, value: Value) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element(value.dtype), value.shape)


def _unique(hint: str, taken: set[str]) -> str:
    name, serial = hint, 0
    while name in taken:
        serial += 1
        name = f"{hint}.{serial}"
    taken.add(name)
    return name
