"""From an ONNX model to the graphs of its network, at one size of its image or another."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx

from optgraph.api.artifact import Artifact
from optgraph.api.feeds import as_feeds, listed
from optgraph.api.sized import AtSize, Original
from optgraph.base.budget import DEFAULT, Budget
from optgraph.base.devices import Target
from optgraph.base.dtypes import INT8
from optgraph.base.errors import InputError, ModelError
from optgraph.cost.work import bytes_per_image
from optgraph.ir.checks import check_computable, check_finite, check_size
from optgraph.ir.graph import Graph
from optgraph.ir.op import Op
from optgraph.onnx import read
from optgraph.onnx.inputs import overrides_by_name
from optgraph.onnx.load import load_model, load_parts, model_name
from optgraph.onnx.read import InputShape
from optgraph.onnx.sessions import Feeds
from optgraph.onnx.sizes import OpenImage, Size, input_names, shapes_at
from optgraph.onnx.stripped import copied
from optgraph.ops.quantised import on_grids
from optgraph.passes import pipeline
from optgraph.passes.pipeline import READ, Pass, PassReport, Watch
from optgraph.plan.kept import check_known
from optgraph.plan.plan import Plan
from optgraph.plan.plans import Plans
from optgraph.run.example import examples
from optgraph.run.fp16_range import leaving

AUTO = "auto"  # of `keep_fp32`: whatever leaves the range of the dtype


@dataclass(frozen=True)
class SourceModel:
    """The ONNX model a net came from: file name, SHA-256 of the file ('' if it was none), operators, and the
    activation bytes an image moves when every operator is a kernel of its own."""

    name: str
    digest: str
    nodes: int
    bytes_per_image: int


class Made(NamedTuple):
    """A network at one size: its graphs after each half of the passes, its plans, and what the passes did."""

    simplified: Graph
    fused: Graph
    plans: Plans
    source: SourceModel
    reports: tuple[PassReport, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """How the networks of one model are made.

    strict: where each region must have a kernel, if anywhere. inputs: what 'auto' of `keep_fp32` looks at, at the size
    that they are of. digest: SHA-256 of the file that `model` was read from, if that is no path. weights: as for
    `read`. The rest is as for `compile`.
    """

    model: str | Path | onnx.ModelProto
    dtype: str
    input_shape: InputShape | Mapping[str, InputShape] | None = None
    outputs: Sequence[str] = ()
    budget: Budget = DEFAULT
    ops: Sequence[type[Op]] = ()
    simplify_passes: Sequence[Pass] = pipeline.SIMPLIFY
    fuse_passes: Sequence[Pass] = pipeline.FUSE
    strict: Target | None = None
    digest: str = ""
    keep_fp32: Sequence[str] | str = ()
    inputs: Sequence[Feeds] = ()
    watch: Watch | None = None
    weights: Mapping[str, np.ndarray] | None = None

    @classmethod
    def saved(
        cls, original: Original, dtype: str, budget: Budget, ops: Sequence[type[Op]], digest: str, keep: Sequence[str]
    ) -> Recipe:
        """That of a file, by what the file has of its model."""
        shapes = original.input_shape
        return cls(original.model, dtype, shapes, (), budget, ops, digest=digest, keep_fp32=tuple(keep))

    def loaded(self) -> Recipe:
        """The same with the model in memory, which no one else can change."""
        model = load_model(self.model)
        if isinstance(self.model, onnx.ModelProto):
            return replace(self, model=copied(model))
        model.graph.name = model_name(self.model)
        return replace(self, model=model, digest=_digest(self.model))

    @property
    def proto(self) -> onnx.ModelProto:
        """The model, once it is loaded."""
        assert isinstance(self.model, onnx.ModelProto)
        return self.model

    def original(self) -> Original:
        """What a file is to have of it. Raises InputError for passes of one's own, which no file can have."""
        if (self.simplify_passes, self.fuse_passes) != (pipeline.SIMPLIFY, pipeline.FUSE):
            raise InputError("a net of any size is made by the standard passes, and this one was not")
        shapes = overrides_by_name(self.input_shape, input_names(self.proto))
        return Original(load_parts(self.proto, True, self.outputs, self.budget), shapes)

    def make(self, image: OpenImage | None = None, size: Size = (0, 0)) -> Made:
        """The network; at one size of its `image`, where that is open and `model` is loaded.

        Raises ModelError, InputError as `compile` does.
        """
        shape = self.input_shape
        if image is not None:
            shape = shapes_at(self.proto, shape, image, size)
        given = self.outputs, self.budget, self.ops, self.weights
        graph = read.read(self.model, shape, False, *given)
        check_size(graph)
        check_finite(graph)
        check_computable(graph)
        digest = self.digest if isinstance(self.model, onnx.ModelProto) else _digest(self.model)
        source = SourceModel(graph.name, digest, graph.source_nodes, bytes_per_image(graph, self.dtype))
        if self.watch is not None:
            self.watch(READ, graph)
        reports = pipeline.apply(graph, self.simplify_passes, watch=self.watch)
        if self.dtype == INT8 and not on_grids(graph):
            reason = "dtype int8: the model says nowhere, by one scale a tensor, what 8 bits are to stand for"
            raise InputError(f"{reason}: make one that does with `optgraph quantize`, or compile it in fp16")
        fused = graph.copy()
        reports += pipeline.apply(fused, self.fuse_passes, watch=self.watch)
        plans = Plans(fused, self.dtype, self._kept(graph, fused, image is not None))
        if self.strict is not None:
            _require_kernels(plans.get(1, self.strict), len(fused))
        return Made(graph, fused, plans, source, tuple(reports))

    def _kept(self, simplified: Graph, fused: Graph, sized: bool) -> Sequence[str]:
        """The ONNX nodes whose regions stay in float32. sized: of `inputs`, some may be for another size."""
        if self.keep_fp32 != AUTO:
            names = (self.keep_fp32,) if isinstance(self.keep_fp32, str) else tuple(self.keep_fp32)
            check_known(fused, names)
            return names
        values = {name: fused.values[name] for name in fused.inputs}
        fitting: list[Feeds] = []
        for given in listed(self.inputs):
            try:
                fitting.append(as_feeds(given, values))
            except InputError:
                if not sized:
                    raise
        found = leaving(simplified, fused, self.dtype, fitting or examples(values))
        return tuple(name for region in found for name in region.onnx_nodes)


def loaded(file: Artifact, at: AtSize, budget: Budget) -> Made:
    """What an .optgraph has of the network at one size. Raises ModelError if it is over budget."""
    for graph in (at.simplified, at.fused):
        graph.budget = budget
        check_size(graph)
    options = file.options
    source = SourceModel(file.source_name, file.source_digest, options.nodes, at.bytes_per_image)
    return Made(at.simplified, at.fused, Plans(at.fused, options.dtype, options.keep_fp32), source)


def _digest(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _require_kernels(plan: Plan, regions: int) -> None:
    """Raises ModelError, naming the nodes and the reasons, if a region has no kernel and falls back to torch."""
    missing = [f"'{f.node}' ({f.op}: {f.reason})" for f in plan.fallbacks]
    if missing:
        raise ModelError(
            f"{len(missing)} of {regions} regions have no kernel: {', '.join(missing)}",
            "compile without strict to run them in torch",
        )
