"""Verification: a backend against ONNX Runtime on the original model, region by region.

A region is a node of the graph that the backend runs. The answers are compared on every input, the regions on the one
whose answer is furthest off.

A network whose answer hardly depends on its input would agree with almost anything: it is refused. That is judged where
it shows, at the logits, and by how far the backend is off: an answer that moves little and is far more accurate than it
moves has been compared.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from optgraph.api.compiling import compile, load
from optgraph.api.feeds import as_feeds, batch_of, listed
from optgraph.api.net import Net
from optgraph.base.arrays import as_tensor
from optgraph.base.budget import DEFAULT, Budget
from optgraph.base.dtypes import INT8
from optgraph.base.errors import InputError, OptgraphError
from optgraph.base.files import as_path, is_artifact
from optgraph.base.progress import Progress, silent
from optgraph.compare import verdict
from optgraph.compare.culprit import culprit
from optgraph.compare.grid_regions import GridRegions
from optgraph.compare.imported import Imported
from optgraph.compare.oracle import allowed, as_stored, coarseness, distance, exact, magnified
from optgraph.compare.original import Original, OutputError
from optgraph.compare.regions import REGION_FACTOR, BadRegion, Regions
from optgraph.onnx.apart import Apart, EndedError
from optgraph.onnx.load import as_model, load_model
from optgraph.onnx.read import InputShape, label
from optgraph.onnx.sessions import Feeds, InnerValues
from optgraph.onnx.sizes import Size
from optgraph.ops.quantised import on_grids
from optgraph.plan.batches import fitting_batch
from optgraph.run.backends import Backend, OnnxRuntime, resolve_backend
from optgraph.run.example import example
from optgraph.run.fp16_range import Leaving, leaving

ORT = "onnxruntime"
ORIGINAL, SIMPLIFIED = "the original model", "the simplified model"  # as errors call what it was given


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes:
        ok: whether the answers, and all that leads to them, are those of the reference.
        reason: why it is not ok, in one line; '' if it is.
        backend: what was compared.
        reference: 'onnxruntime VERSION'; 'torch VERSION', where ONNX Runtime dies of the model.
        dtype: what the backend computed in.
        batch: how many images an input is.
        inputs: how many inputs the answers were compared on.
        bound: relative L2 that an output may be off, see `compare/oracle.py`.
        noise: relative L2 that rounding alone makes it.
        outputs: how far off each output is, at worst over the inputs.
        first_bad_region: the first in topological order beyond what a region may have; None if there is none.
        input_sensitivity: relative L2 between the reference's answers to inputs that move it most, at the logits where
            an output has some; the least over the outputs.
        regions_compared: out of `regions_total`; the others equal no value of the original model.
        regions_total: how many there are.
        notes: what else there is to know, a line each.
        out_of_range: regions that leave the range of fp16, and are not kept in float32, on the inputs compared on.
        kept_fp32: the ONNX nodes whose regions are.
    """

    backend: str
    reference: str
    dtype: str
    batch: int
    inputs: int
    bound: float
    noise: float
    ok: bool
    outputs: tuple[OutputError, ...]
    first_bad_region: BadRegion | None
    input_sensitivity: float
    regions_compared: int
    regions_total: int
    reason: str
    notes: tuple[str, ...] = ()
    out_of_range: tuple[Leaving, ...] = ()
    kept_fp32: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data; null stands for what is not finite, for which JSON has no number."""
        bad = self.first_bad_region
        return {
            **vars(self),
            "outputs": [output.to_json() for output in self.outputs],
            "first_bad_region": {**bad, "rel_l2": _finite(bad["rel_l2"])} if bad else None,
            "noise": _finite(self.noise),
            "input_sensitivity": _finite(self.input_sensitivity),
            "notes": list(self.notes),
            "out_of_range": [region.to_json() for region in self.out_of_range],
            "kept_fp32": list(self.kept_fp32),
        }


def verify(
    model: str | Path,
    backend: str = "auto",
    dtype: str = "fp32",
    input_shape: InputShape | Mapping[str, InputShape] | None = None,
    original: str | Path | None = None,
    batch: int = 1,
    seed: int = 0,
    progress: Progress = silent,
    outputs: Sequence[str] = (),
    budget: Budget = DEFAULT,
    size: Size | None = None,
    inputs: Sequence[Feeds] = (),
    keep_fp32: Sequence[str] | str = (),
) -> Verification:
    """Compares a backend with ONNX Runtime (float32, CPU, nothing optimised) on the original ONNX model.

    Args:
        model: an .onnx, compiled here, or an .optgraph, which has its own dtype and input shape.
        backend: what to verify, as for `compile`.
        dtype: as for `compile`.
        input_shape: as for `read`.
        original: the .onnx an .optgraph came from; by default, the file of its name beside it.
        batch: how many images are made up, where there are no `inputs`: smooth random ones where an input has rank 4.
        seed: of what is made up.
        progress: told what is being done, and how much of it is, 0 to 1.
        outputs: tensors to cut the model off at (`--cut`), which are compared with what they are inside the original.
        budget: what the model may ask for.
        size: height and width of the images in pixels, where the model leaves them open; of an .optgraph, one that it
            has.
        inputs: what to compare on, each a dict of arrays by input name. None: one, made up.
        keep_fp32: as for `compile`; 'auto' looks at `inputs`.

    Raises:
        InputError: the original is missing or another one, or the batch or an input does not fit.
        OptgraphError: what `compile` and `load` raise; or nothing is left to compare with, see `verify_net`.
    """
    given = dtype, input_shape, original, outputs, budget, size, keep_fp32, inputs, progress
    net, source = open_with_original(model, compiled_for(backend), *given)
    return verify_net(net, source, batch, seed, progress, inputs, backend)


def verify_net(
    net: Net,
    original: str | Path,
    batch: int = 1,
    seed: int = 0,
    progress: Progress = silent,
    inputs: Sequence[Feeds] = (),
    backend: str = "",
) -> Verification:
    """As `verify`, for a net that was compiled before, from `original`. backend: what to verify, if not its own.

    ONNX Runtime runs in another process, which a model may kill. If the original does, it is compared with what torch
    makes of it; if that has no form of it, or it is the backend that died, OptgraphError is raised.
    """
    import onnxruntime

    backend = resolve_backend(backend) if backend else net.backend
    feeds = [as_feeds(given, net.inputs) for given in listed(inputs)]
    batch = batch_of(feeds[0], net.inputs) if feeds else fitting_batch(net.inputs, batch)
    feeds = feeds or [example(net.inputs, batch, seed)]
    progress("reference", 0.0)
    with Apart() as apart:
        model = load_model(original)
        values = InnerValues(model, apart.opener(ORIGINAL), widened=True)
        try:
            opened = partial(apart.opener(SIMPLIFIED), integers=net.dtype == INT8)
            runtime = OnnxRuntime(net.simplified, opened=opened) if backend == ORT else net.runtime
            common = net, runtime, backend, feeds, batch, seed, progress
            return _verified(values, f"onnxruntime {onnxruntime.__version__}", *common)
        except EndedError as error:
            node = None if error.hung else culprit(values, list(net.outputs), feeds[0])
            why = f"{error}, at node {label(node)} ({node.op_type})" if node is not None else str(error)
            if error.what != ORIGINAL:
                raise OptgraphError(f"{why}: use backend='torch'") from None
        try:
            imported = Imported(model, feeds[0], list(net.outputs), net.fused.budget)
            note = f"{why}: compared with torch, on the same import, instead"
            return _verified(imported, f"torch {torch.__version__}", *common, notes=[note])
        except OptgraphError as error:
            raise OptgraphError(f"{why}; with torch in its place: {error}") from None


def compiled_for(backend: str) -> str:
    """What to compile a model for that is to be verified on `backend`: ONNX Runtime is then opened apart."""
    name = resolve_backend(backend)
    return "torch" if name == ORT else name


def _verified(
    values: InnerValues | Imported,
    reference: str,
    net: Net,
    runtime: Backend,
    backend: str,
    feeds: Sequence[Feeds],
    batch: int,
    seed: int,
    progress: Progress,
    notes: Sequence[str] = (),
) -> Verification:
    """`runtime`, by the name of `backend`, against `values`."""
    original = Original(net, values, feeds, batch, seed)
    dtype, grids = computed_dtype(net, backend), on_grids(net.fused)
    stored = "fp32" if backend == ORT else dtype  # whose regions are shown in float, whatever the answers come from
    noise, said = original.noise()
    noise = max(noise, coarseness(net, stored, feeds, original.answers, original.scales))
    bound = allowed(stored, noise, grids)
    results, regions = _run(net, runtime, stored, original, batch, REGION_FACTOR * bound, progress)
    progress("outputs", 1.0)
    found = tuple(original.compare(name, [result[name] for result in results]) for name in net.outputs)
    if grids and regions.bad is None:  # then it is the network that moves so far by one step of its own
        bound = magnified(bound, noise)
        said = [*said, *verdict.magnified(found, regions, bound, noise)]
    out = tuple(leaving(net.simplified, net.fused, dtype, feeds, net.plans.keep))
    reason = verdict.reason(found, regions, original, bound, backend, out)
    return Verification(
        backend=backend,
        reference=reference,
        dtype=dtype,
        batch=batch,
        inputs=len(feeds),
        bound=bound,
        noise=noise,
        ok=not reason,
        outputs=found,
        first_bad_region=regions.bad,
        input_sensitivity=min(original.moves.values(), default=math.inf),
        regions_compared=len(regions.compared),
        regions_total=regions.total,
        reason=reason,
        notes=(*notes, *said, *original.blank(bound)),
        out_of_range=out,
        kept_fp32=net.plans.keep if dtype != "fp32" else (),
    )


def open_with_original(
    model: str | Path,
    backend: str,
    dtype: str,
    input_shape: InputShape | Mapping[str, InputShape] | None = None,
    original: str | Path | None = None,
    outputs: Sequence[str] = (),
    budget: Budget = DEFAULT,
    size: Size | None = None,
    keep_fp32: Sequence[str] | str = (),
    inputs: Sequence[Feeds] = (),
    progress: Progress = silent,
) -> tuple[Net, Path]:
    """The net of an .onnx or .optgraph file, and the .onnx it came from. Arguments and errors as for `verify`."""
    if not isinstance(model, str | os.PathLike):
        as_model(model)  # which says what else is no model
        raise InputError('compares with an ONNX file: onnx.save(model, "model.onnx"), and pass "model.onnx"')
    path = as_path(model)
    if not is_artifact(path):
        if original is not None:
            raise InputError(f"{path} is its own original: only an .optgraph file has another")
        sizes = [] if size is None else [size]
        kept: dict[str, Any] = {"keep_fp32": keep_fp32, "inputs": inputs, "progress": progress}
        return compile(path, backend, dtype, input_shape, outputs=outputs, budget=budget, sizes=sizes, **kept), path
    net = load(path, backend, budget=budget, progress=progress)
    net = net if size is None else net.at(*size)
    source = Path(original) if original is not None else path.parent / net.source.name
    if not source.is_file():
        raise InputError(f"{source}: no such file: give the .onnx that {path.name} was compiled from as the original")
    if net.source.digest and hashlib.sha256(source.read_bytes()).hexdigest() != net.source.digest:
        raise InputError(
            f"{source}: not what {path.name} was compiled from (its SHA-256 differs): "
            "give that .onnx as the original, or compile again"
        )
    return net, source


def computed_dtype(net: Net, backend: str = "") -> str:
    """What the net's backend, or another, computes in: plain torch in float32, ONNX Runtime in that or in integers."""
    backend = backend or net.backend
    known = backend in ("triton", "interpret") or (backend == ORT and net.dtype == INT8)
    return net.dtype if known else "fp32"


def _run(
    net: Net, runtime: Backend, dtype: str, original: Original, batch: int, bound: float, tell: Progress
) -> tuple[list[dict[str, torch.Tensor]], Regions]:
    """The net's answers to each input, and its regions on the one where they are furthest off."""
    tensors = [{name: as_tensor(array) for name, array in feed.items()} for feed in original.feeds]
    results: list[dict[str, torch.Tensor]] = []
    worst = 0
    if len(tensors) > 1:
        for i, feed in enumerate(tensors):
            results.append(runtime(feed, batch))
            tell("outputs", (i + 1) / len(tensors))
        errors = [
            max(distance(found[name], answer[name], original.scales[name])[0] for name in answer)
            for found, answer in zip(results, original.answers, strict=True)
        ]
        worst = errors.index(max(errors))
    regions: Regions
    if on_grids(runtime.graph):
        regions = GridRegions(
            runtime.graph, original, worst, bound, tell, dtype, net.plans.keep, _rough(net, dtype, batch)
        )
    else:
        coarse = None if exact(runtime.graph, dtype) else as_stored(runtime.graph, dtype, net.plans.keep)
        regions = Regions(runtime.graph, original, worst, bound, tell, coarse)
    shown = runtime.stepwise(tensors[worst], batch, regions.see)
    return results or [shown], regions


def _rough(net: Net, dtype: str, batch: int) -> set[str]:
    """The regions whose kernels multiply numbers of fewer bits than float32 has, and no integers."""
    if dtype == "fp32":
        return set()
    plan = net.plan(batch)
    return {fallback.node for fallback in plan.fallbacks} | {
        call.node
        for call in plan.calls
        for path, weight in call.weights.items()
        if not path.startswith(("before", "after")) and plan.packed[weight.key].dtype != INT8
    }


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
