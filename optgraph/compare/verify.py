"""Verification: a backend against ONNX Runtime on the original model, region by region.

A region is a node of the graph that the backend runs. Both sides stream: the backend shows each result as it makes
it, and the oracle gives the value of the original model that it should equal, in the same order. So memory stays
bounded, and what is found is the first region that is wrong, not only that the answer is.

A network whose answer hardly depends on its input would agree with almost anything: it is refused.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import torch

from optgraph.api.net import Net, compile, load
from optgraph.base.budget import DEFAULT, Budget
from optgraph.base.errors import InputError
from optgraph.base.progress import Progress, silent
from optgraph.compare.oracle import allowed, coarseness, distance, example, noise
from optgraph.ir.graph import Graph, Node
from optgraph.ir.text import op_text
from optgraph.onnx.load import load_model
from optgraph.onnx.read import InputShape
from optgraph.onnx.sessions import Feeds, InnerValues
from optgraph.onnx.sizes import Size
from optgraph.plan.lowering import fitting_batch
from optgraph.run.engine import Tensors

# What a region may be off, in terms of an output: inside, rounding shows about 2.5 times as much as at the end, where
# a global pool averages most of it away (measured in float32 on Inception V3 and Inception-ResNet-v2).
REGION_FACTOR = 4.0

# The answers to two inputs must be this many bounds apart; but unrelated ones are about 1.4 apart, so no dtype is
# asked for more than the limit, ten times the loosest bound.
SENSITIVITY = 100.0
SENSITIVITY_LIMIT = 0.3


class OutputError(NamedTuple):
    """How far an output is from the reference: relative L2, and the largest absolute difference."""

    name: str
    rel_l2: float
    max_abs: float


class BadRegion(TypedDict):
    """A node whose result is wrong, and the ONNX nodes it stands for."""

    region: str
    op: str
    onnx_nodes: list[str]
    rel_l2: float


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    reference:          'onnxruntime <version>'.
    dtype:              what the backend computed in.
    bound, noise:       relative L2 that an output may be off, and that rounding alone makes it: see `oracle.allowed`.
    first_bad_region:   the first in topological order beyond what a region may have; None if there is none.
    input_sensitivity:  relative L2 between the reference's answers to two inputs, the least over the outputs.
    regions_compared:   out of regions_total; the others equal no value of the original model.
    reason:             why it is not ok, in one line; '' if it is.
    """

    backend: str
    reference: str
    dtype: str
    batch: int
    bound: float
    noise: float
    ok: bool
    outputs: tuple[OutputError, ...]
    first_bad_region: BadRegion | None
    input_sensitivity: float
    regions_compared: int
    regions_total: int
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Plain data; null stands for what is not finite, for which JSON has no number."""
        bad = self.first_bad_region
        return {
            **vars(self),
            "outputs": [
                {"name": o.name, "rel_l2": _finite(o.rel_l2), "max_abs": _finite(o.max_abs)} for o in self.outputs
            ],
            "first_bad_region": {**bad, "rel_l2": _finite(bad["rel_l2"])} if bad else None,
            "noise": _finite(self.noise),
            "input_sensitivity": _finite(self.input_sensitivity),
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
) -> Verification:
    """Compares a backend with ONNX Runtime (float32, CPU, nothing optimised) on the original ONNX model.

    model: an .onnx, compiled here, or an .optgraph, which has its own dtype and input shape.
    original: the .onnx an .optgraph came from; by default, the file of its name beside it.
    batch, seed: of the inputs, which are smooth random images where an input has rank 4.
    outputs: tensors to cut the model off at (`--cut`), which are compared with what they are inside the original.
    budget: what the model may ask for.
    size: height and width of the images, where the model leaves them open; of an .optgraph, one that it has.
    Raises InputError if the original is missing or another one, or the batch does not fit; and as `compile` and `load`.
    """
    net, source = open_with_original(model, backend, dtype, input_shape, original, outputs, budget, size)
    return verify_net(net, source, batch, seed, progress)


def verify_net(
    net: Net, original: str | Path, batch: int = 1, seed: int = 0, progress: Progress = silent
) -> Verification:
    """As `verify`, for a net that was compiled before, from `original`."""
    import onnxruntime

    batch = fitting_batch(net.inputs, batch)
    feeds, others = (example(net.inputs, batch, s) for s in (seed, seed + 1))
    progress("reference", 0.0)
    reference = InnerValues(load_model(original))
    answers, other_answers = reference.run(list(net.outputs), feeds, others)
    (optimized,) = reference.run(list(net.outputs), feeds, optimize=True)
    sensitivity = min(distance(other_answers[name], answers[name])[0] for name in answers)

    dtype = computed_dtype(net)
    rounding = max(noise(answers, optimized), coarseness(net.fused, dtype, feeds, answers))
    bound = allowed(dtype, rounding)
    graph = net.runtime.graph
    regions = _Regions(graph, reference, feeds, REGION_FACTOR * bound, progress)
    tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
    results = net.runtime.stepwise(tensors, batch, regions.see)
    progress("outputs", 1.0)
    outputs = tuple(OutputError(name, *distance(results[name], answers[name])) for name in answers)
    reason = _reason(outputs, regions, sensitivity, bound)
    return Verification(
        backend=net.backend,
        reference=f"onnxruntime {onnxruntime.__version__}",
        dtype=dtype,
        batch=batch,
        bound=bound,
        noise=rounding,
        ok=not reason,
        outputs=outputs,
        first_bad_region=regions.bad,
        input_sensitivity=sensitivity,
        regions_compared=len(regions.compared),
        regions_total=len(graph),
        reason=reason,
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
) -> tuple[Net, Path]:
    """The net of an .onnx or .optgraph file, and the .onnx it came from. Arguments and errors as for `verify`."""
    path = Path(model)
    if path.suffix != ".optgraph":
        if original is not None:
            raise InputError(f"{path} is its own original: only an .optgraph file has another")
        sizes = [] if size is None else [size]
        return compile(path, backend, dtype, input_shape, outputs=outputs, budget=budget, sizes=sizes), path
    net = load(path, backend, budget=budget)
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


def computed_dtype(net: Net) -> str:
    """What the net's backend computes in; the two reference backends know only float32."""
    return net.dtype if net.backend in ("triton", "interpret") else "fp32"


# ---- regions


class _Regions:
    """Compares each region's results with the reference as the backend shows them.

    compared: names of the regions that have a value of the original model to equal. bad: the first that does not.
    """

    def __init__(self, graph: Graph, reference: InnerValues, feeds: Feeds, bound: float, tell: Progress) -> None:
        produced = [value for node in graph.nodes() for value in node.outputs]
        self._sources = {value: graph.sources[value] for value in produced if value in graph.sources}
        self._wanted = [value for value, source in self._sources.items() if source.name in reference]
        self.compared: set[str] = set()
        self.bad: BadRegion | None = None
        self._expected = reference.stream([self._sources[value].name for value in self._wanted], feeds)
        self._bound = bound
        self._tell = tell
        self._left = set(self._wanted)

    def see(self, node: Node, results: Tensors) -> None:
        """`node` has given `results`; called in the order of `graph.nodes()`, and a node's outputs in theirs."""
        for value in results:
            if value not in self._left:
                continue
            self._left.remove(value)
            self.compared.add(node.name)
            expected, perm = next(self._expected), self._sources[value].perm
            rel_l2, _ = distance(results[value], expected.transpose(perm) if perm else expected)
            if self.bad is None and rel_l2 > self._bound:
                self.bad = BadRegion(region=node.name, op=op_text(node.op), onnx_nodes=list(node.origin), rel_l2=rel_l2)
            self._tell("regions", 1.0 - len(self._left) / len(self._wanted))


def _reason(outputs: tuple[OutputError, ...], regions: _Regions, sensitivity: float, bound: float) -> str:
    """Why the net cannot be certified, in one line; '' if it can."""
    needed = min(SENSITIVITY * bound, SENSITIVITY_LIMIT)
    if sensitivity < needed:
        return (
            f"the original's own answers to two inputs are only {sensitivity:.1e} apart, and {needed:.1e} is needed "
            "for a comparison to mean anything: verify with real weights, or without a saturated softmax"
        )
    worst = max(outputs, key=lambda output: output.rel_l2)
    bad, wrong = regions.bad, worst.rel_l2 > bound
    if not wrong and bad is None:
        return ""
    parts = [f"output '{worst.name}' is off by {_error(worst.rel_l2)}, over {bound:.1e}"] if wrong else []
    if bad is not None:
        parts.append(
            f"the first wrong region is '{bad['region']}' ({bad['op']}), off by {_error(bad['rel_l2'])}, "
            f"for ONNX nodes {', '.join(bad['onnx_nodes']) or 'unknown'}"
        )
    else:
        parts.append(f"none of the {len(regions.compared)} regions compared is wrong: it is one of the others")
    return "; ".join(parts)


def _error(rel_l2: float) -> str:
    return f"{rel_l2:.1e}" if math.isfinite(rel_l2) else "NaN or Inf"


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
