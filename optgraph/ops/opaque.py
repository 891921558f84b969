"""Any ONNX operator that is none of ours, kept as it came and run by torch (`ops/standard/`).

What torch does not have is left to ONNX's own reference implementation. Operators change between opsets: Softmax ran
over all axes from `axis` on until 13, Upsample became Resize. That implementation knows only some of the old meanings,
and one file has one opset, so for it, and to be written, an old operator goes through ONNX's version converter.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper, numpy_helper, version_converter

from optgraph.base.arrays import to_array
from optgraph.base.dtypes import torch_dtype
from optgraph.base.errors import FIX_INPUT, ModelError
from optgraph.ir.op import Exporter, Importer, Inputs, Node, Op, Outputs
from optgraph.ir.values import Dim, Value, at, batches, per_image
from optgraph.ops.exporting import OPSET, element

if TYPE_CHECKING:
    from torch import Tensor

# Primes, so that no product of other sizes is taken for one; and the smallest, which a slice of two images may lack.
_BATCHES = (1009, 2003, 1)


@dataclass(frozen=True, kw_only=True)
class Opaque(Op):
    """The node itself (`proto`: its serialized NodeProto). `values` holds the outputs' shapes, found at import."""

    op_type: str = field(repr=False)
    domain: str = field(repr=False)
    proto: bytes = field(repr=False)
    values: tuple[Value, ...] = field(repr=False)

    @property
    def kind(self) -> str:
        return self.op_type

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        return self.values

    @staticmethod
    def from_schema(importer: Importer, node: onnx.NodeProto, schema: onnx.defs.OpSchema) -> None:
        """Keeps `node` as it is; ONNX's own shape inference finds its outputs. Raises ModelError if it cannot."""
        # It computes no size from a symbol, as Resize would have to: what comes out for three batch sizes tells.
        found = [inferred(importer, node, schema, batch) for batch in _BATCHES]
        values = []
        for outputs in zip(*found, strict=True):
            dtype = outputs[0][1]
            dims = [_dimension(*sizes) for sizes in zip(*(shape for shape, _ in outputs), strict=True)]
            named = (f"{node.output[0]}.{i}" if d is None else d for i, d in enumerate(dims))
            values.append(Value(tuple(named), dtype))
        op = Opaque(op_type=node.op_type, domain=schema.domain, proto=node.SerializeToString(), values=tuple(values))
        importer.add(op, node.input, node.output)

    def export(self, to: Exporter, node: Node) -> None:
        graph = self._graph(to.source_opset, to.opset)
        present = [value for value in node.inputs if value]
        names = {"": ""}
        for infos, values in ((graph.input, present), (graph.output, node.outputs)):
            names |= {info.name: to.name(value) for info, value in zip(infos, values, strict=True)}
        names |= {tensor.name: to.constant(numpy_helper.to_array(tensor), tensor.name) for tensor in graph.initializer}
        for part in graph.node:
            for slots in (part.input, part.output):
                for i, local in enumerate(slots):
                    if local not in names:
                        names[local] = to.fresh(local)
                    slots[i] = names[local]
            to.add(part)

    def least_opset(self, source: int) -> int:
        """That which gave it its meaning: it is never converted to an older one."""
        return self._since(source) if not self.domain and onnx.defs.has(self.op_type) else 0

    def compute(self, inputs: Inputs) -> Outputs:
        return self.function({"": OPSET})(inputs)

    def function(self, opsets: Mapping[str, int]) -> Callable[[Inputs], Outputs]:
        from optgraph.ops.standard.form import OutsideTorchError

        in_torch, reference = self.torch_function(opsets), functools.cache(lambda: self._reference(opsets))
        if in_torch is None:
            return reference()

        def call(tensors: Inputs) -> Outputs:
            try:
                results = in_torch([None if t is None else _widened(t) for t in tensors])
            except OutsideTorchError:
                return reference()(tensors)
            except Exception as error:  # torch raises several types for inputs that do not fit
                raise ModelError(_line(error)) from error
            types = [torch_dtype(value.dtype) for value in self.values]
            return tuple(
                result if result.is_floating_point() else result.to(dtype)
                for result, dtype in zip(results, types, strict=True)
            )

        return call

    def torch_function(self, opsets: Mapping[str, int]) -> Callable[[Inputs], Outputs] | None:
        """What torch has for it in its opset; None if it is for ONNX's reference implementation."""
        from optgraph.ops.standard.table import torch_function

        return None if self.domain else torch_function(onnx.NodeProto.FromString(self.proto), opsets[""])

    def _reference(self, opsets: Mapping[str, int]) -> Callable[[Inputs], Outputs]:
        """ONNX's reference implementation. Raises ModelError if there is none."""
        import torch
        from onnx.reference import ReferenceEvaluator

        opset = max(opsets[""], OPSET)
        graph = self._graph(opsets[""], opset)
        names = [value.name for value in graph.input]
        imports = [helper.make_opsetid("", opset)]
        if self.domain:
            imports.append(helper.make_opsetid(self.domain, opsets.get(self.domain, 1)))
        try:
            evaluator = ReferenceEvaluator(helper.make_model(graph, opset_imports=imports))
        except Exception as error:
            reason = f"nothing here computes it, and ONNX has no reference implementation of it: {_line(error)}"
            raise ModelError(reason, "export it from other operators, or cut the network off before it") from error

        def call(tensors: Inputs) -> Outputs:
            device = next((t.device for t in tensors if t is not None), torch.device("cpu"))
            present = [to_array(_widened(t)) for t in tensors if t is not None]
            feeds = dict(zip(names, present, strict=True))
            try:
                return tuple(torch.from_numpy(np.array(a)).to(device) for a in evaluator.run(None, feeds))
            except Exception as error:
                raise ModelError(f"ONNX's reference implementation failed: {_line(error)}") from error

        return call

    def _graph(self, opset: int, target: int) -> onnx.GraphProto:
        """The node, written for `opset`, as a graph for `target` of in0, in1, ... -> out0, out1, ...; absent inputs
        are ''.

        One node, unless the operator has changed in between. Raises ModelError for an operator that ONNX does not know
        or cannot convert.
        """
        node = onnx.NodeProto.FromString(self.proto)
        node.domain = self.domain
        # Named by slot, since rewrites rename the values around a node.
        inputs = [f"in{i}" if name else "" for i, name in enumerate(node.input)]
        outputs = [f"out{i}" for i in range(len(node.output))]
        del node.input[:], node.output[:]
        node.input.extend(inputs)
        node.output.extend(outputs)
        graph = helper.make_graph(
            [node],
            self.op_type,
            [helper.make_empty_tensor_value_info(name) for name in inputs if name],
            [helper.make_empty_tensor_value_info(name) for name in outputs],
        )
        if self.domain or self._since(opset) == self._since(target):
            return graph
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        try:
            return version_converter.convert_version(model, target).graph
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise ModelError(
                f"cannot be converted from opset {opset} to {target}: {reason}", "export it again"
            ) from None

    def _since(self, opset: int) -> int:
        """The opset that gave the operator the meaning it has in `opset`."""
        try:
            return int(onnx.defs.get_schema(self.op_type, opset, "").since_version)
        except onnx.defs.SchemaError:
            raise ModelError(f"ONNX opset {opset} has no such operator", "export it again") from None


def _dimension(*sizes: Dim) -> Dim | None:
    """The dimension that is these for _BATCHES; None for one that only data tells."""
    first = sizes[0]
    if isinstance(first, int):
        for dim in (first, batches(first // _BATCHES[0])):
            if all(size == at(dim, batch) for size, batch in zip(sizes, _BATCHES, strict=True)):
                return dim
    return None


def inferred(
    importer: Importer, node: onnx.NodeProto, schema: onnx.defs.OpSchema, batch: int
) -> list[tuple[list[Dim], str]]:
    """Shape and dtype of each output for a batch of that size; a dimension that is not known gets a name."""
    types, data = {}, {}
    for name in filter(None, node.input):
        shape = [d if per_image(d) is None else at(d, batch) for d in importer.shape(name)]
        types[name] = helper.make_tensor_type_proto(element(importer.dtype(name)), shape)
        array = _known(importer, name, batch)
        if array is not None and array.size <= 4096:
            data[name] = numpy_helper.from_array(array, name)
    model = importer.model
    # With every default written out: inference forgets that of STFT.
    whole, given = onnx.NodeProto.FromString(node.SerializeToString()), {attribute.name for attribute in node.attribute}
    defaults = (attribute.default_value for attribute in schema.attributes.values() if attribute.name not in given)
    names = [name or f"unused {i}" for i, name in enumerate(node.output)]  # by which it tells outputs apart
    whole.output[:] = names
    whole.attribute.extend(value for value in defaults if value.type != onnx.AttributeProto.UNDEFINED)
    try:
        types_out = onnx.shape_inference.infer_node_outputs(
            schema, whole, types, data, opset_imports=list(model.opset_import), ir_version=model.ir_version
        )
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        raise ModelError(str(error).splitlines()[0]) from None
    found = []
    for name in names:
        proto = types_out.get(name)
        if proto is None or not proto.HasField("tensor_type") or not proto.tensor_type.HasField("shape"):
            raise ModelError("the shape of its output cannot be found", FIX_INPUT)
        dims: list[Dim] = [
            d.dim_value if d.HasField("dim_value") else d.dim_param or f"{node.output[0]}.{i}"
            for i, d in enumerate(proto.tensor_type.shape.dim)
        ]
        found.append((dims, str(helper.tensor_dtype_to_np_dtype(proto.tensor_type.elem_type))))
    return found


def _known(importer: Importer, name: str, batch: int) -> np.ndarray | None:
    """A constant, or a shape vector at a batch of that size; None for what is computed as the model runs."""
    array, dims = importer.constant(name), importer.dims(name)
    if array is None and dims is not None and all(isinstance(d, int) or per_image(d) for d in dims):
        numbers = [at(d, batch) for d in dims]
        array = np.array(numbers, importer.dtype(name)).reshape([int(d) for d in importer.shape(name)])
    return array


def _widened(tensor: Tensor) -> Tensor:
    """16-bit floats as float32, so that what an operator computes is rounded once."""
    return tensor.float() if tensor.is_floating_point() and tensor.itemsize == 2 else tensor


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


OPS = (Opaque,)
