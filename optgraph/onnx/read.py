"""Import: an ONNX file or ModelProto becomes a Graph of our vocabulary.

Model-level work is here: loading, the checks a hostile or careless file needs, input shapes, and the walk over the
nodes. What each ONNX operator becomes is in `onnx_ops.py`. Names of values and nodes are kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from optgraph.base import garbage
from optgraph.base.budget import DEFAULT, Budget
from optgraph.base.dtypes import ITEMSIZE
from optgraph.base.errors import InputError, ModelError
from optgraph.ir.graph import Graph, Source
from optgraph.ir.op import Op
from optgraph.ir.values import BATCH, Dim, Shape, Value
from optgraph.onnx import external_data, parts, shape_arithmetic
from optgraph.onnx.external_data import is_external, is_stripped
from optgraph.ops import onnx_ops

# What reading a damaged proto raises: a wrong number of inputs, an attribute of another type. There are more ways than
# are worth a check each.
MALFORMED = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError)

InputShape = Sequence[int | str | None]


def read(
    source: str | Path | onnx.ModelProto,
    input_shape: InputShape | Mapping[str, InputShape] | None = None,
    allow_stripped: bool = False,
    outputs: Sequence[str] = (),
    budget: Budget = DEFAULT,
) -> Graph:
    """Reads an ONNX model into a Graph.

    source: a path or a loaded ModelProto (any opset from 7; local functions are inlined).
    input_shape: overrides the declared shape of the only input, or of inputs by name; None, 0, -1 or 'N' in front
        leaves the batch symbolic. Needed where a model leaves height or width open.
    allow_stripped: weights whose data is missing (location 'stripped') or in another file read as constants, a
        different number each, for looking at structure only.
    outputs: names of tensors to cut the model off at, in place of its own outputs.
    budget: what the model may ask for.
    Raises ModelError for what cannot be read or compiled, InputError for an input shape or output that does not fit.
    """
    model = load_parts(source, not allow_stripped, outputs, budget)
    return Importer(model, model_name(source), allow_stripped, budget).build(input_shape)


def load_parts(
    source: str | Path | onnx.ModelProto, external: bool, outputs: Sequence[str], budget: Budget
) -> onnx.ModelProto:
    """Loads a model as `load_model`, writes its functions out and cuts it off. Arguments and errors as for `read`."""
    model = parts.expanded(parts.inlined(load_model(source, external), budget))
    return parts.cut(model, outputs) if outputs else model


def model_name(source: str | Path | onnx.ModelProto) -> str:
    """The file name, or the name of the graph where there is no file."""
    return Path(source.graph.name if isinstance(source, onnx.ModelProto) else source).name


def load_model(source: str | Path | onnx.ModelProto, external: bool = True) -> onnx.ModelProto:
    """Loads a ModelProto with its external data, if `external`, but for what was stripped.

    Raises ModelError, in one line, for anything that is not one.
    """
    if isinstance(source, onnx.ModelProto):
        model = source
    else:
        path = Path(source)
        if not path.is_file():
            raise ModelError(f"{path}: no such file" if not path.exists() else f"{path}: not a file")
        try:
            model = onnx.load(str(path), load_external_data=False)
            if external:
                external_data.load(model, path.parent)
        except (DecodeError, UnicodeDecodeError):
            raise ModelError(f"{path}: not an ONNX model, or a truncated one") from None
        except ModelError as error:
            raise error.at(str(path)) from None
        except OSError as error:
            raise ModelError(f"{path}: cannot be read ({error.strerror or error})") from None
    label = "model" if isinstance(source, onnx.ModelProto) else str(source)
    if not model.graph.node:
        raise ModelError(f"{label}: no operators in it: not an ONNX model, or an empty graph")
    if not model.graph.output:
        raise ModelError(f"{label}: the graph has no outputs")
    return model


class Importer:
    """The state of one import. `onnx_ops` handlers call `add`, `constant`, `shape` and `dims` on it."""

    def __init__(self, model: onnx.ModelProto, name: str, allow_stripped: bool, budget: Budget = DEFAULT) -> None:
        self.model = model
        self.graph = Graph(name)
        self.graph.budget = budget
        self.graph.opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
        if self.graph.opset > onnx.defs.onnx_opset_version():
            raise ModelError(f"opset {self.graph.opset} is newer than onnx {onnx.__version__} knows", "update onnx")
        self.graph.domains = {o.domain: o.version for o in model.opset_import}
        self.graph.source_nodes = sum(node.op_type != "Constant" for node in model.graph.node)
        self.allow_stripped = allow_stripped
        self._alias: dict[str, str] = {}  # ONNX value -> graph value, where they differ
        self._vectors: dict[str, shape_arithmetic.Vector] = {}  # shape arithmetic known so far, by ONNX value
        self._read = {name for node in model.graph.node for name in node.input}
        self._read.update(output.name for output in model.graph.output)
        self._node: onnx.NodeProto | None = None

    # ---- for the operator handlers

    @property
    def opset(self) -> int:
        return self.graph.opset

    def value(self, name: str) -> str:
        """The graph's name for an ONNX value. Raises ModelError if nothing has defined it yet."""
        name = self._alias.get(name, name)
        if name and name not in self.graph.values:
            raise ModelError(f"reads '{name}', which no earlier node, input or weight defines")
        return name

    def shape(self, name: str) -> Shape:
        return self.graph.values[self.value(name)].shape

    def dtype(self, name: str) -> str:
        return self.graph.values[self.value(name)].dtype

    def constant(self, name: str) -> np.ndarray | None:
        """The array of a constant input, or of shape arithmetic that came out all integer."""
        found = self.graph.constants.get(self._alias.get(name, name))
        if found is None and name in self._vectors and not _symbolic(self._vectors[name]):
            return self._vectors[name].astype(np.int64)
        return found

    def dims(self, name: str) -> list[Dim] | None:
        """The elements of a shape vector, symbols included; None if it is not known."""
        vector = self._vectors.get(name)
        if vector is None:
            array = self.graph.constants.get(self._alias.get(name, name))
            vector = shape_arithmetic.as_vector(array) if array is not None else None
        return None if vector is None else list(vector.flat)

    def reads(self, names: Sequence[str]) -> bool:
        """Whether a node or the caller of the model reads any of these ONNX values."""
        return not self._read.isdisjoint(filter(None, names))

    def alias(self, name: str, target: str) -> None:
        """`name` is just another name of the value `target`."""
        self._alias[name] = self.value(target)

    def add(self, op: Op, inputs: Sequence[str], outputs: Sequence[str] | None = None) -> str:
        """Adds `op` on ONNX values; outputs get the ONNX node's names unless given. Returns the first output."""
        assert self._node is not None
        names = [name or None for name in (self._node.output if outputs is None else outputs)]
        node = self.graph.add(
            op,
            [self.value(name) for name in inputs],
            [name or self.graph.fresh(f"{self._node.name or op.kind}:unused") for name in names],
            name=self._node.name or self._node.op_type,
            origin=[self._node.name or self._node.output[0]],
        )
        for value in node.outputs:
            _require_dtype(self.graph.values[value].dtype)
        return node.output

    def add_constant(self, array: np.ndarray, hint: str) -> str:
        return self.graph.add_constant(array, hint)

    # ---- the walk

    @garbage.paused()
    def build(self, input_shape: InputShape | Mapping[str, InputShape] | None) -> Graph:
        for tensor in self.model.graph.initializer:
            self._define(tensor.name)
            self.graph.add_constant(self._array(tensor), tensor.name)
        if self.model.graph.sparse_initializer:
            raise ModelError("sparse initializers are not supported", "export with dense weights")
        self._inputs(input_shape)
        for node in self.model.graph.node:
            self.visit(node)
        for output in self.model.graph.output:
            self.publish(output.name)
        self.graph.prune()
        self.graph.sources = {v: Source(v) for node in self.graph.nodes() for v in node.outputs}
        return self.graph

    def visit(self, node: onnx.NodeProto) -> None:
        """Imports one node. Raises ModelError, saying where, if it cannot be."""
        self._node = node
        where = f"node {label(node)} ({node.op_type})"
        try:
            for name in node.output:
                self._define(name)
            for name in node.input:
                self.value(name)
            self._evaluate(node)
            onnx_ops.convert(self, node)
        except ModelError as error:
            raise error.at(where) from None
        except MALFORMED as error:
            raise _malformed(error).at(where) from None

    def publish(self, name: str) -> None:
        """Makes the ONNX value `name` an output."""
        if not name:
            raise ModelError("the graph has an output without a name")
        self.graph.outputs[name] = self.value(name)

    def _define(self, name: str) -> None:
        if name and (name in self.graph.values or name in self._alias):
            raise ModelError(f"value '{name}' is defined twice")

    def _array(self, tensor: TensorProto) -> np.ndarray:
        if any(d < 0 for d in tensor.dims):
            raise ModelError(f"weight '{tensor.name}' has a negative dimension")
        if is_external(tensor):
            if not self.allow_stripped:
                reason = "was stripped from this file" if is_stripped(tensor) else "is in a file that was not loaded"
                remedy = "fill it with `optgraph calibrate`" if is_stripped(tensor) else "give the path of the model"
                raise ModelError(f"weight '{tensor.name}' {reason}", remedy)
            self.graph.budget.check("arena_bytes", 4 * math.prod(tensor.dims), f"weight '{tensor.name}' is too large")
            number = 1 + len(self.graph.constants) / 4096  # equal weights would be merged as common subexpressions
            return np.broadcast_to(
                np.array(number, helper.tensor_dtype_to_np_dtype(tensor.data_type)), tuple(tensor.dims)
            )
        try:
            array = numpy_helper.to_array(tensor)
        except MALFORMED as error:
            raise _malformed(error).at(f"weight '{tensor.name}' is damaged") from None
        _require_dtype(str(array.dtype))
        return array

    def tensor(self, tensor: TensorProto) -> np.ndarray:
        """The data of a tensor attribute."""
        return self._array(tensor)

    def _inputs(self, override: InputShape | Mapping[str, InputShape] | None) -> None:
        inputs = [i for i in self.model.graph.input if i.name not in self.graph.constants]
        if not inputs:
            raise ModelError("the model has no inputs")
        if override is None:
            overrides: Mapping[str, InputShape] = {}
        elif isinstance(override, Mapping):
            overrides = override
        elif len(inputs) == 1:
            overrides = {inputs[0].name: override}
        else:
            raise InputError(
                f"the model has {len(inputs)} inputs: give a shape by name ({', '.join(i.name for i in inputs)})"
            )
        for name in overrides:
            if name not in {i.name for i in inputs}:
                raise InputError(f"no input '{name}': the model has {', '.join(i.name for i in inputs)}")
        for info in inputs:
            self._define(info.name)
            self.graph.add_input(info.name, Value(_input_shape(info, overrides.get(info.name)), _input_dtype(info)))

    def _evaluate(self, node: onnx.NodeProto) -> None:
        """Follows shape arithmetic alongside the graph."""
        if node.op_type == "Shape":
            shape = self.shape(node.input[0])
            attrs = onnx_ops.attributes(node)
            picked = list(shape)[slice(attrs.get("start"), attrs.get("end"))]
            self._vectors[node.output[0]] = np.array(picked, dtype=object)
            return
        if not node.input or node.op_type not in shape_arithmetic.OPERATORS:
            return
        operands: list[shape_arithmetic.Vector | None] = []
        for name in node.input:
            vector = self._vectors.get(name)
            if vector is None:
                array = self.graph.constants.get(self._alias.get(name, name))
                vector = shape_arithmetic.as_vector(array) if array is not None else None
            operands.append(vector)
        result = shape_arithmetic.evaluate(node.op_type, onnx_ops.attributes(node), operands)
        if result is not None:
            self._vectors[node.output[0]] = result


def _require_dtype(dtype: str) -> None:
    """Raises ModelError for a type of numbers that no backend computes with."""
    if dtype not in ITEMSIZE:
        raise ModelError(f"tensors of type {dtype} are not supported", f"export with one of {', '.join(ITEMSIZE)}")


def _malformed(error: Exception) -> ModelError:
    found = f"{type(error).__name__}: {error}".splitlines()[0]
    return ModelError(f"not as ONNX defines it ({found})", "export the model again")


def declared_value(info: onnx.ValueInfoProto) -> Value | None:
    """The shape and dtype that a file declares for a value inside; None if it leaves more than the batch open."""
    proto = info.type.tensor_type
    dims = [d.dim_value if d.dim_value > 0 else None for d in proto.shape.dim]
    if not proto.HasField("shape") or None in dims[1:]:
        return None
    try:
        return Value(tuple(d or BATCH for d in dims), _input_dtype(info))
    except ModelError:
        return None


def label(node: onnx.NodeProto) -> str:
    """How a message calls an ONNX node: its name, or its first output where it has none."""
    return f"'{node.name}'" if node.name else f"producing '{node.output[0] if node.output else '?'}'"


def _symbolic(vector: shape_arithmetic.Vector) -> bool:
    return any(isinstance(d, str) for d in vector.flat)


def _input_dtype(info: onnx.ValueInfoProto) -> str:
    kind = info.type.tensor_type.elem_type
    if not info.type.HasField("tensor_type") or kind in (TensorProto.UNDEFINED, TensorProto.STRING):
        raise ModelError(f"input '{info.name}' is not a numeric tensor")
    try:
        dtype = str(helper.tensor_dtype_to_np_dtype(kind))
    except KeyError:
        raise ModelError(f"input '{info.name}' is of a type that ONNX does not have ({kind})") from None
    _require_dtype(dtype)
    return dtype


def _input_shape(info: onnx.ValueInfoProto, override: InputShape | None) -> Shape:
    proto = info.type.tensor_type
    if not proto.HasField("shape") and override is None:
        raise ModelError(f"input '{info.name}' has no shape", "give one with --input-shape, such as N,3,299,299")
    declared: list[Dim | None] = [
        d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in proto.shape.dim
    ]
    if override is not None:
        if declared and len(override) != len(declared):
            raise InputError(f"input '{info.name}' has {len(declared)} dimensions, the given shape {len(override)}")
        declared = [None if d in (None, 0, -1) else d for d in override]
    shape: list[Dim] = []
    for i, d in enumerate(declared):
        if i == 0 and (d is None or isinstance(d, str)):
            shape.append(BATCH)
        elif isinstance(d, int) and d > 0:
            shape.append(d)
        else:
            example = ",".join(["N", *(str(s) if s else "299" for s in declared[1:])])
            raise ModelError(
                f"input '{info.name}' leaves dimension {i} open ({example.replace('299', '?')})",
                f"fix it with --input-shape {example}",
            )
    return tuple(shape)
