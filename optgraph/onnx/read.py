"""Import: an ONNX file or ModelProto becomes a Graph of our vocabulary.

Model-level work is here: weights, the checks a hostile or careless file needs, and the walk over the nodes. What each
ONNX operator becomes is in `ops/`, one file a family. Names of values and nodes are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from optgraph.base import garbage
from optgraph.base.budget import DEFAULT, Budget
from optgraph.base.errors import FIX_INPUT, ModelError
from optgraph.ir.checks import fixed_shapes
from optgraph.ir.graph import Graph, Source
from optgraph.ir.op import Op
from optgraph.ir.quant import Grid
from optgraph.ir.values import Dim, Shape
from optgraph.onnx.inputs import InputShape, input_value, overrides_by_name, require_dtype
from optgraph.onnx.known import Known
from optgraph.onnx.load import as_model, load_parts, model_name
from optgraph.onnx.scopes import Names, names_read
from optgraph.onnx.tensors import MALFORMED, constant_array, malformed, tensor_array
from optgraph.ops.importing import KeepError, attributes
from optgraph.ops.opaque import Opaque, inferred
from optgraph.ops.quantised import grid_of
from optgraph.ops.registry import OURS, Registry

__all__ = ["InputShape", "ModelReader", "read"]


def read(
    source: str | Path | bytes | onnx.ModelProto,
    input_shape: InputShape | Mapping[str, InputShape] | None = None,
    allow_stripped: bool = False,
    outputs: Sequence[str] = (),
    budget: Budget = DEFAULT,
    ops: Sequence[type[Op]] = (),
    weights: Mapping[str, np.ndarray] | None = None,
) -> Graph:
    """Reads an ONNX model into a Graph.

    Args:
        source: a path, what is in a file, or a loaded ModelProto (any opset from 7; local functions are inlined).
        input_shape: overrides the declared shape of the only input, or of inputs by name; None, 0, -1 or 'N' in front
            leaves the batch symbolic. A text such as 'N,3,480,640' is one, too. Needed where a model leaves height or
            width open.
        allow_stripped: weights whose data is missing (location 'stripped') or in another file read as constants, a
            different number each, for looking at structure only.
        outputs: names of tensors to cut the model off at, in place of its own outputs.
        budget: what the model may ask for.
        ops: operators of one's own, for the ONNX operators that their `handlers` name, custom domains included.
        weights: what inputs of the model are, by name, where these are constants: the arrays are not copied.

    Raises:
        ModelError: what cannot be read or compiled.
        InputError: an input shape or output that does not fit.
    """
    source = as_model(source)
    model = load_parts(source, not allow_stripped, outputs, budget)
    return ModelReader(model, model_name(source), allow_stripped, budget, OURS.extended(ops)).build(
        input_shape, weights
    )


class ModelReader:
    """The state of one import: the `Importer` of `ir/op.py`, and the walk over the nodes."""

    def __init__(
        self,
        model: onnx.ModelProto,
        name: str,
        allow_stripped: bool,
        budget: Budget = DEFAULT,
        registry: Registry = OURS,
    ) -> None:
        self.model = model
        self.graph = Graph(name)
        self.graph.budget = budget
        self.graph.opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
        if self.graph.opset > onnx.defs.onnx_opset_version():
            raise ModelError(f"opset {self.graph.opset} is newer than onnx {onnx.__version__} knows", "update onnx")
        self.graph.domains = {o.domain: o.version for o in model.opset_import}
        self.graph.source_nodes = sum(node.op_type != "Constant" for node in model.graph.node)
        self.allow_stripped = allow_stripped
        self._registry = registry
        self._alias: dict[str, str] = {}  # ONNX value -> graph value, where they differ
        self._known = Known(self.graph, self.value)
        self._names = Names(model.graph)
        self._read = {name for node in model.graph.node for name in names_read(node)}
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
        return self._known.constant(name)

    def dims(self, name: str) -> list[Dim] | None:
        return self._known.dims(name)

    def reads(self, names: Sequence[str]) -> bool:
        """Whether a node or the caller of the model reads any of these ONNX values."""
        return not self._read.isdisjoint(filter(None, names))

    def alias(self, name: str, target: str) -> None:
        """`name` is just another name of the value `target`."""
        self._alias[name] = self.value(target)

    def add(self, op: Op, inputs: Sequence[str], outputs: Sequence[str] | None = None) -> str:
        """Adds `op` on ONNX values, as part of the node being imported. Returns the first output's name in the graph.

        outputs: what it computes, one name each, '' for a value inside; the ONNX node's first output if None.
        """
        assert self._node is not None
        name = self._node.name or self._node.op_type
        unused = f"{self._node.name or op.kind}:unused"
        computed = self._node.output[:1] if outputs is None else outputs
        node = self.graph.add(
            op,
            [self.value(value) for value in inputs],
            [value or self.graph.fresh(f"{unused}{i}") for i, value in enumerate(computed)],
            name=name,
            origin=[self._node.name or self._node.output[0]],
        )
        for value in node.outputs:
            require_dtype(self.graph.values[value].dtype)
        self._known.folding.note(node)
        return node.output

    def add_constant(self, array: np.ndarray, hint: str, grid: Grid | None = None) -> str:
        return self.graph.add_constant(array, hint, grid)

    def grid(self, name: str) -> Grid | None:
        return self.graph.grids.get(self.value(name))

    # ---- the walk

    @garbage.paused()
    def build(
        self,
        input_shape: InputShape | Mapping[str, InputShape] | None,
        weights: Mapping[str, np.ndarray] | None = None,
    ) -> Graph:
        for name, array in (weights or {}).items():
            self._define(name)
            self.graph.add_constant(array, name)
        for tensor in self.model.graph.initializer:
            self._define(tensor.name)
            self.graph.add_constant(self._tensor(tensor), tensor.name)
        if self.model.graph.sparse_initializer:
            raise ModelError("sparse initializers are not supported", "export with dense weights")
        self._inputs(input_shape)
        for node in self.model.graph.node:
            self.visit(node)
        for output in self.model.graph.output:
            self.publish(output.name)
        self._known.settle()
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
            if node.op_type == "If" and not _domain(node):
                self._branch(node)
                return
            self._convert(node)
            if not _domain(node):
                self._known.follow(node)
        except ModelError as error:
            if error.remedy == FIX_INPUT:
                error = ModelError(error.reason, fixed_shapes(self.graph), error.attribute, error.where)
            raise error.at(where) from None
        except MALFORMED as error:
            raise malformed(error).at(where) from None

    def publish(self, name: str) -> None:
        """Makes the ONNX value `name` an output."""
        if not name:
            raise ModelError("the graph has an output without a name")
        self.graph.outputs[name] = self.value(name)

    def require_known(self, node: onnx.NodeProto) -> onnx.defs.OpSchema | None:
        """What ONNX says about the operator; None for one that only our registry knows.

        Raises ModelError for one that nobody knows, and for control flow.
        """
        for attribute in node.attribute:
            if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
                remedy = "export a static graph (trace the model)"
                reason = "control flow is not supported, but for an If whose condition is known at import"
                raise ModelError(reason, remedy, attribute.name)
        domain = _domain(node)
        version = self.graph.domains.get(node.domain, self.opset)
        try:
            return onnx.defs.get_schema(node.op_type, version, domain)
        except (onnx.defs.SchemaError, TypeError):  # or the version is no int of 32 bits
            if self._registry.handler(domain, node.op_type) and not onnx.defs.has(node.op_type, domain):
                return None
            raise ModelError(
                f"ONNX opset {version} of domain '{domain or 'ai.onnx'}' knows no operator {node.op_type}",
                "export it from standard operators",
            ) from None

    def _convert(self, node: onnx.NodeProto) -> None:
        """Adds the node to the graph, by its handler or as it came."""
        schema = self.require_known(node)
        if schema is not None and not (
            schema.min_input <= len(node.input) <= schema.max_input and len(node.output) <= schema.max_output
        ):
            counts = f"{len(node.input)} inputs and {len(node.output)} outputs"
            raise ModelError(f"{counts}, which {node.op_type} does not have")
        if node.op_type == "Constant" and not _domain(node):
            self.add_constant(constant_array(attributes(node), self._tensor), node.output[0])
            return
        handler = self._registry.handler(_domain(node), node.op_type)
        if handler is not None:
            try:
                handler(self, node, attributes(node))
                return
            except KeepError:
                pass
        if schema is None:
            raise ModelError(f"its handler refuses it, and ONNX itself knows no operator {node.op_type}")
        if not self._fold(node, schema):
            Opaque.from_schema(self, node, schema)

    def _fold(self, node: onnx.NodeProto, schema: onnx.defs.OpSchema) -> bool:
        """Whether the node's outputs are constants, which they are now."""
        if schema.non_deterministic:  # type: ignore[attr-defined]  # not in the stubs
            return False
        arrays = {name: self.constant(name) for name in node.input if name}
        known = {name: array for name, array in arrays.items() if array is not None}
        if len(known) < len(arrays):
            return False
        results = self._known.folding.node(node, known, inferred(self, node, schema, 1))
        for name, array in zip(node.output, results or (), strict=bool(results)):
            require_dtype(str(array.dtype))
            if name:
                self.graph.add_constant(array, name, grid_of(node, [arrays.get(i) for i in node.input]))
        return results is not None

    def _branch(self, node: onnx.NodeProto) -> None:
        """Imports the branch that an If takes in place of it. Raises ModelError if that is known only when it runs."""
        condition = self.constant(node.input[0]) if len(node.input) == 1 else None
        if condition is None or condition.size != 1:
            self.require_known(node)
        taken = "then_branch" if condition is not None and condition.any() else "else_branch"
        branch = attributes(node).get(taken)
        if branch is None or len(branch.output) != len(node.output) or branch.input or branch.sparse_initializer:
            raise ModelError("its branch does not fit it", "export the model again", taken)
        computed = {name for inner in branch.node for name in inner.output}
        own: dict[str, str] = {}
        for inner, name in zip(branch.output, node.output, strict=True):
            if name and inner.name in computed:
                own.setdefault(inner.name, name)
        graph = self._names.graph(branch, {}, own=own)
        self._read.update(name for inner in graph.node for name in names_read(inner))
        for tensor in graph.initializer:
            self.graph.add_constant(self._tensor(tensor), tensor.name)
        for inner in graph.node:
            self.visit(inner)
        for value, name in zip(graph.output, node.output, strict=True):
            if name and value.name != name:  # a value from around the branch, or one that is an output twice
                self.alias(name, value.name)

    def _define(self, name: str) -> None:
        if name and (name in self.graph.values or name in self._alias):
            raise ModelError(f"value '{name}' is defined twice")

    def _tensor(self, tensor: TensorProto) -> np.ndarray:
        number = 1 + len(self.graph.constants) / 4096  # equal weights would be merged as common subexpressions
        return tensor_array(tensor, self.graph.budget, number if self.allow_stripped else None)

    def _inputs(self, override: InputShape | Mapping[str, InputShape] | None) -> None:
        inputs = [i for i in self.model.graph.input if i.name not in self.graph.constants]
        if not inputs:
            raise ModelError("the model has no inputs")
        overrides = overrides_by_name(override, [info.name for info in inputs])
        for info in inputs:
            self._define(info.name)
            self.graph.add_input(info.name, input_value(info, overrides.get(info.name), len(inputs) > 1))


def _domain(node: onnx.NodeProto) -> str:
    """'' for ONNX's own, which has two names."""
    return "" if node.domain == "ai.onnx" else node.domain


def label(node: onnx.NodeProto) -> str:
    """How a message calls an ONNX node: its name, or its first output where it has none."""
    return f"'{node.name}'" if node.name else f"producing '{node.output[0] if node.output else '?'}'"
