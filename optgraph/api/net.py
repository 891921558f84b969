"""compile, load and the Net they give: a compiled network to call, save and look into."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch

from optgraph.ahead.build import Use, build, find_uses, parse_targets
from optgraph.ahead.cubins import Cubin
from optgraph.api import artifact
from optgraph.base.budget import DEFAULT, Budget
from optgraph.base.devices import Target
from optgraph.base.dtypes import check_dtype, torch_dtype
from optgraph.base.errors import InputError, ModelError
from optgraph.base.progress import Progress, silent
from optgraph.cost.work import bytes_per_image
from optgraph.ir.checks import check_finite, check_size
from optgraph.ir.graph import Graph
from optgraph.ir.op import Op
from optgraph.ir.values import BATCH, Value
from optgraph.onnx import read
from optgraph.onnx.read import InputShape
from optgraph.passes import pipeline
from optgraph.passes.pipeline import Pass, PassReport
from optgraph.plan.plan import Plan
from optgraph.plan.plans import Plans
from optgraph.run.backends import Backend, kernel_target, make_backend, resolve_backend

Array = np.ndarray | torch.Tensor
Result = Array | dict[str, np.ndarray] | dict[str, torch.Tensor]


@dataclass(frozen=True)
class SourceModel:
    """The ONNX model a net came from: file name, SHA-256 of the file ('' if it was none), operators, and the
    activation bytes an image moves when every operator is a kernel of its own."""

    name: str
    digest: str
    nodes: int
    bytes_per_image: int


class Net:
    """A compiled network. Immutable; threads may call the same net.

    simplified, fused:  the graphs after each half of the passes.
    backend, dtype:     the name of what runs it, and how kernels store numbers.
    runtime:            what runs it: the `Backend` of that name.
    source:             what is known of the ONNX model it came from.
    reports:            what each pass did (empty after `load`).
    inputs, outputs:    name -> Value (shape with 'N' for the batch, dtype).
    cubins, uses:       kernels compiled ahead, and where the plans launch each (`uses` is empty after `load`).
    """

    def __init__(
        self,
        simplified: Graph,
        fused: Graph,
        source: SourceModel,
        backend: str = "auto",
        dtype: str = "fp32",
        reports: Sequence[PassReport] = (),
        batches: Sequence[int] = (1,),
        cubins: Sequence[Cubin] = (),
        uses: Sequence[Use] = (),
        plans: Plans | None = None,
    ) -> None:
        check_dtype(dtype)
        self.simplified = simplified
        self.fused = fused
        self.source = source
        self.dtype = dtype
        self.reports = tuple(reports)
        self.batches = tuple(batches)
        self.cubins = tuple(cubins)
        self.uses = tuple(uses)
        self.backend = resolve_backend(backend)
        self.inputs: dict[str, Value] = {name: fused.values[name] for name in fused.inputs}
        self.outputs: dict[str, Value] = {public: fused.values[v] for public, v in fused.outputs.items()}
        self.plans = plans or Plans(fused, dtype)
        self.runtime: Backend = make_backend(self.backend, simplified, self.plans, self.cubins)

    def __call__(self, x: Array | Mapping[str, Array]) -> Result:
        """Runs the network on `x`, or on a mapping of inputs by name.

        Arrays or tensors of the model's declared shape and dtype, any batch size where the batch is symbolic.
        Returns the same kind as it was given; with several outputs, a dict by name. Raises InputError for an input
        that does not fit.
        """
        feeds, batch = self._feeds(x)
        first = next(iter(feeds.values()))
        tensors = {name: a if isinstance(a, torch.Tensor) else torch.from_numpy(a) for name, a in feeds.items()}
        results = self.runtime(tensors, batch)
        if isinstance(first, torch.Tensor):
            moved = {n: t.to(first.device, torch_dtype(self.outputs[n].dtype)) for n, t in results.items()}
            return next(iter(moved.values())) if len(moved) == 1 else moved
        arrays = {n: t.cpu().to(torch_dtype(self.outputs[n].dtype)).numpy() for n, t in results.items()}
        return next(iter(arrays.values())) if len(arrays) == 1 else arrays

    def plan(self, batch: int = 1, target: Target | None = None) -> Plan:
        """What the kernels would run for `batch` images; needs no GPU. Raises ModelError if it is over budget.

        target: where; by default what the backend's kernels run on, an H100 if it has none.
        """
        plan = self.plans.get(batch, target or kernel_target(self.backend))
        self.fused.budget.check("arena_bytes", plan.arena_bytes, f"batch {batch} takes {plan.arena_bytes} bytes")
        return plan

    def save(self, path: str | Path, ops: Sequence[type[Op]] = ()) -> None:
        """Writes the net as one .optgraph file, at once or not at all. ops: operators of your own that it contains.

        Raises InputError if the file cannot be written, ArtifactError for an operator that is not in `ops`.
        """
        options = artifact.Options(self.dtype, self.batches, self.source.nodes, self.source.bytes_per_image)
        source = self.source
        saved = artifact.Artifact(self.simplified, self.fused, options, source.digest, source.name, self.cubins)
        artifact.save(Path(path), saved, ops)

    def _feeds(self, x: Array | Mapping[str, Array]) -> tuple[dict[str, Array], int]:
        """The inputs by name, once they fit, and how many images they are: 1 where no input has an open batch."""
        if isinstance(x, Mapping):
            feeds = dict(x)
        elif len(self.inputs) == 1:
            feeds = {next(iter(self.inputs)): x}
        else:
            raise InputError(f"the network has {len(self.inputs)} inputs: pass a dict of {', '.join(self.inputs)}")
        if set(feeds) != set(self.inputs):
            raise InputError(f"the network's inputs are {', '.join(self.inputs)}; got {', '.join(feeds) or 'none'}")
        found = [self._check(name, array) for name, array in feeds.items()]
        batches = sorted({batch for batch in found if batch is not None})
        if len(batches) > 1:
            raise InputError(f"inputs of different batch sizes: {batches}")
        return feeds, batches[0] if batches else 1

    def _check(self, name: str, array: Array) -> int | None:
        """Raises InputError unless `array` fits input `name`; returns its batch where that is free."""
        value = self.inputs[name]
        expected = f"input '{name}' expects {value.dtype} of shape {_shape(value.shape)}"
        if not isinstance(array, np.ndarray | torch.Tensor):
            raise InputError(f"{expected}, got a {type(array).__name__}: pass a numpy array or a torch tensor")
        dtype = str(array.dtype).removeprefix("torch.")
        if dtype != value.dtype:
            remedy = f"x.{'to' if isinstance(array, torch.Tensor) else 'astype'}(...{value.dtype})"
            raise InputError(f"{expected}, got {dtype}: convert it, {remedy}")
        shape = tuple(array.shape)
        fits = len(shape) == len(value.shape) and all(
            d >= 1 if isinstance(e, str) else d == e for d, e in zip(shape, value.shape, strict=True)
        )
        if not fits:
            raise InputError(f"{expected}, got {_shape(shape)}")
        return shape[0] if value.shape and value.shape[0] == BATCH else None


def compile(
    model: str | Path | onnx.ModelProto,
    backend: str = "auto",
    dtype: str = "fp32",
    input_shape: InputShape | Mapping[str, InputShape] | None = None,
    *,
    outputs: Sequence[str] = (),
    strict: bool = False,
    budget: Budget = DEFAULT,
    batches: Sequence[int] = (1,),
    targets: Sequence[str] = (),
    progress: Progress = silent,
    simplify_passes: Sequence[Pass] = pipeline.SIMPLIFY,
    fuse_passes: Sequence[Pass] = pipeline.FUSE,
    ops: Sequence[type[Op]] = (),
) -> Net:
    """Compiles an ONNX model.

    model: a path or a loaded ModelProto. backend: 'auto' (a GPU's kernels, else ONNX Runtime), 'triton',
    'interpret', 'onnxruntime' or 'torch'. dtype: 'fp32', 'tf32', 'fp16' or 'bf16', what the kernels store and
    multiply in; sums are float32, and the two reference backends always compute in float32.
    input_shape: fixes open dimensions, see `read`.
    outputs: names of tensors to cut the network off at: what it then answers with, by these names. `--cut`, on the
        command line.
    strict: a node without a kernel is an error.
    budget: what the model may ask for.
    batches: sizes worth reporting on; any size runs.
    targets: GPUs, such as 'sm_90', to compile the kernels for now, with no GPU: there, they need not be compiled again.
    progress: told what is being compiled, and how much of it is done, 0 to 1.
    ops: operators of your own, for the ONNX operators that their `handlers` name, custom domains included.
    Raises ModelError, InputError; see `optgraph.base.errors`.
    """
    check_dtype(dtype)
    gpus = parse_targets(targets)
    backend = resolve_backend(backend)
    graph = read.read(model, input_shape, outputs=outputs, budget=budget, ops=ops)
    check_size(graph)
    check_finite(graph)
    digest = "" if isinstance(model, onnx.ModelProto) else hashlib.sha256(Path(model).read_bytes()).hexdigest()
    source = SourceModel(graph.name, digest, graph.source_nodes, bytes_per_image(graph, dtype))
    reports = pipeline.apply(graph, simplify_passes)
    fused = graph.copy()
    reports += pipeline.apply(fused, fuse_passes)
    plans = Plans(fused, dtype)
    if strict:
        _require_kernels(plans.get(1, kernel_target(backend)), len(fused))
    uses = find_uses(plans, batches, gpus)
    return Net(graph, fused, source, backend, dtype, reports, batches, build(uses, progress), uses, plans)


def _require_kernels(plan: Plan, regions: int) -> None:
    """Raises ModelError, naming the nodes and the reasons, if a region has no kernel and falls back to torch."""
    missing = [f"'{f.node}' ({f.op}: {f.reason})" for f in plan.fallbacks]
    if missing:
        raise ModelError(
            f"{len(missing)} of {regions} regions have no kernel: {', '.join(missing)}",
            "compile without strict to run them in torch",
        )


def simplify(graph: Graph) -> Graph:
    """A simplified copy of `graph`: fewer operators, the same results, every one standard ONNX."""
    simplified = graph.copy()
    pipeline.apply(simplified, pipeline.SIMPLIFY)
    return simplified


def load(
    path: str | Path,
    backend: str = "auto",
    ops: Sequence[type[Op]] = (),
    budget: Budget = DEFAULT,
    cubins: bool = True,
) -> Net:
    """Loads a saved net. ops: operators of your own that it contains. budget: what it may ask for.

    cubins: use the file's, if it has some for this GPU. They are machine code, which the GPU will run unseen: for a
    file from where you would not run a program from, say False, and all kernels are compiled here.
    Raises InputError if there is no such file, ArtifactError for a damaged one or one of another version, ModelError
    for one over budget.
    """
    found = artifact.load(Path(path), ops, cubins)
    for graph in (found.simplified, found.fused):
        graph.budget = budget
        check_size(graph)
    options = found.options
    source = SourceModel(found.source_name, found.source_digest, options.nodes, options.bytes_per_image)
    return Net(found.simplified, found.fused, source, backend, options.dtype, (), options.batches, found.cubins)


def _shape(shape: Sequence[object]) -> str:
    return "[" + ", ".join(str(d) for d in shape) + "]"
