"""What of a model is not supported, found all at once: `optgraph check`. Needs neither its weights nor a GPU.

Import goes on after a node it cannot take. What comes after such a node is judged as usual if the file says what shape
the node's outputs have; else only by its operator, for its own inputs are not known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from optgraph.base.budget import DEFAULT, Budget
from optgraph.base.errors import ModelError
from optgraph.ir.checks import check_size, fixed_shapes, uncomputable
from optgraph.ir.graph import Graph
from optgraph.ir.values import per_image
from optgraph.onnx.inputs import declared_value
from optgraph.onnx.load import as_model, load_parts, model_name
from optgraph.onnx.read import InputShape, ModelReader
from optgraph.onnx.sizes import Size, checked_sizes, open_image, shapes_at
from optgraph.passes import pipeline
from optgraph.plan.lowering import lower


@dataclass(frozen=True)
class Unsupported:
    """An ONNX node that cannot be compiled: why, by which attribute ('' for none), and what to do about it."""

    node: str
    op: str
    attribute: str
    reason: str
    remedy: str


@dataclass(frozen=True)
class FallingBack:
    """A region that torch would run: its operator, the ONNX nodes it stands for, and why there is no kernel."""

    op: str
    nodes: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Compatibility:
    """What `check` found.

    nodes:        of the ONNX model.
    unsupported:  all that must go before it compiles.
    unjudged:     nodes that are known by operator only, since they come after an unsupported one.
    fused_nodes:  regions of the compiled network, as far as it is supported; `fallbacks` are those without a kernel.
    """

    model: str
    nodes: int
    unsupported: tuple[Unsupported, ...]
    unjudged: tuple[str, ...]
    fused_nodes: int
    fallbacks: tuple[FallingBack, ...]

    @property
    def ok(self) -> bool:
        return not self.unsupported

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"ok": self.ok, **asdict(self)}


def check(
    model: str | Path | bytes | onnx.ModelProto,
    input_shape: InputShape | Mapping[str, InputShape] | None = None,
    outputs: Sequence[str] = (),
    budget: Budget = DEFAULT,
    size: Size | None = None,
) -> Compatibility:
    """Judges a model, whose weights may be missing. Arguments as for `read`.

    size: height and width of its images, where it leaves them open.

    Raises ModelError for what is no model at all, InputError for an input shape or output that does not fit.
    """
    model = as_model(model)
    proto = load_parts(model, False, outputs, budget)
    if size is not None:
        (size,) = checked_sizes([size])
        input_shape = shapes_at(proto, input_shape, open_image(proto, input_shape), size)
    importer = _Reader(proto, model_name(model), allow_stripped=True, budget=budget)
    importer.trust_declared = input_shape is None
    graph = importer.build(input_shape)
    check_size(graph)
    nodes = graph.source_nodes
    without = [
        Unsupported(", ".join(node.origin), node.op.kind, "", error.reason, error.remedy)
        for node, error in uncomputable(graph)
    ]
    pipeline.apply(graph, (*pipeline.SIMPLIFY, *pipeline.FUSE))
    sizeless = _sizeless(graph)
    found = lower(graph).fallbacks if not sizeless else ()
    return Compatibility(
        model=graph.name,
        nodes=nodes,
        unsupported=(*importer.unsupported, *without, *sizeless),
        unjudged=tuple(importer.unjudged),
        fused_nodes=len(graph),
        fallbacks=tuple(FallingBack(f.op, graph.node(f.node).origin, f.reason) for f in found),
    )


def _sizeless(graph: Graph) -> list[Unsupported]:
    """The nodes whose outputs have a size that only their data tells, so that no memory can be planned for them."""
    found = []
    for node in graph.nodes():
        shapes = [graph.shape(value) for value in node.outputs]
        if any(isinstance(d, str) and per_image(d) is None for shape in shapes for d in shape):
            reason = f"the size of its output {list(shapes[0])} is known only when it runs"
            found.append(Unsupported(", ".join(node.origin), node.op.kind, "", reason, fixed_shapes(graph)))
    return found


class _Reader(ModelReader):
    """Notes what it cannot import, and goes on."""

    def __init__(self, model: onnx.ModelProto, name: str, allow_stripped: bool, budget: Budget) -> None:
        super().__init__(model, name, allow_stripped, budget)
        self.unsupported: list[Unsupported] = []
        self.unjudged: list[str] = []
        self.trust_declared = True
        self._declared = {v.name: v for v in (*model.graph.value_info, *model.graph.output)}
        self._unknown: set[str] = set()  # outputs of what was not imported

    def visit(self, node: onnx.NodeProto) -> None:
        unjudged = not self._unknown.isdisjoint(node.input)
        try:
            if unjudged:
                self.require_known(node)
                self.unjudged.append(node.name or node.output[0])
            else:
                super().visit(node)
                return
        except ModelError as error:
            name = node.name or (node.output[0] if node.output else "")
            remedy = error.remedy or "export the model again"
            self.unsupported.append(Unsupported(name, node.op_type, error.attribute, error.reason, remedy))
        self._stand_in(node)

    def _stand_in(self, node: onnx.NodeProto) -> None:
        """Inputs in place of the node's outputs, where their shape is declared; what it reads becomes an output."""
        for name in filter(None, node.output):
            value = declared_value(self._declared[name]) if self.trust_declared and name in self._declared else None
            if value is None:
                self._unknown.add(name)
            elif name not in self.graph.values:
                self.graph.add_input(name, value)
        for name in filter(None, node.input):
            if self.graph.producer(name) and self.dtype(name).startswith("float"):
                self.graph.outputs[name] = name

    def publish(self, name: str) -> None:
        if name not in self._unknown:
            super().publish(name)
