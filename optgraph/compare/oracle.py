"""The oracle: what to ask an original model, how far another answer is from its own, and how far it may be."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch

from optgraph.api.net import Net
from optgraph.base.dtypes import INT8, float_storage, nearest_tf32, torch_dtype
from optgraph.ir.graph import Graph
from optgraph.onnx.sessions import Feeds
from optgraph.ops.quantised import on_grids
from optgraph.plan.kept import Kept
from optgraph.run.reference import Executor

BOUNDS = {"fp32": 1e-5, "tf32": 3e-3, "fp16": 5e-3, "bf16": 3e-2}  # relative L2 of an output, by dtype
BOUNDS["int8"] = BOUNDS["fp16"]  # what is not on a grid
NOISE_FACTOR, NOISE_LIMIT = 2.0, 10.0

COUPLED = 1e-3  # relative L2 of an image's answer beside some images and beside others, at most; rounding is far below

# The same of a network with values on grids, whatever it is computed in: where a sum lies half way between two steps,
# its last bit decides which is taken, and a step of 8 bits is 1e-2 of a small answer.
GRIDS_BOUND = 1e-2

# And, where each region is right by itself, so many times what rounding alone moves the answer, which is one sample of
# how far it may: on ResNet-50, 2.1e-2 in one run and 5.4e-2 in another. An answer of nothing but zeros is off by 1.
MAGNIFIED, MAGNIFIED_LIMIT = 4.0, 0.9

# A sigmoid's answers lie between 0 and 1, and that is the scale of their errors, wherever the image happens to put
# them: ONNX Runtime's is off by 1.7e-7 of 1, and by all of it where it is 1e-8, as on the background of a detector.
# As many times 1e-5 as the bound of a dtype allows are 1e-6 of 1 in fp32, 5e-4 in fp16: a rounding there.
SIGMOID_SCALE = 0.1


def distance(
    result: torch.Tensor | np.ndarray, reference: torch.Tensor | np.ndarray, scale: float = 0.0
) -> tuple[float, float]:
    """Relative L2, ‖result - reference‖ / ‖reference‖, and the largest absolute difference.

    scale: the least root mean square that the reference is taken to have.
    Both are infinite where the shapes differ or either side has a NaN or an Inf.
    """
    out, ref = (torch.as_tensor(a).detach().cpu().double() for a in (result, reference))
    if out.shape != ref.shape:
        return math.inf, math.inf
    difference = out - ref
    error, norm = float(difference.norm()), float(ref.norm())
    if not (math.isfinite(error) and math.isfinite(norm)):
        return math.inf, math.inf
    if error == 0.0:
        return 0.0, 0.0
    norm = max(norm, scale * math.sqrt(ref.numel()))
    return error / norm if norm else math.inf, float(difference.abs().max())


def finite_part(result: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both without the places where they have the same infinity, such as that of a mask, or both a NaN; or as they are,
    where only one of them is not finite or the shapes differ."""
    if result.shape != reference.shape or np.issubdtype(reference.dtype, np.integer):
        return result, reference
    ours, theirs = np.asarray(result, np.float64), np.asarray(reference, np.float64)
    same = ~np.isfinite(theirs) & ((ours == theirs) | (np.isnan(ours) & np.isnan(theirs)))
    return (ours[~same], theirs[~same]) if same.any() else (ours, theirs)


def furthest(results: Feeds, answers: Feeds, scales: Mapping[str, float]) -> float:
    """The largest distance of an output; `scales` as for `distance`, by output."""
    return max(distance(results[name], answers[name], scales[name])[0] for name in answers)


def rounding(graph: Graph, feeds: Feeds, answers: Feeds, scales: Mapping[str, float]) -> float:
    """How far float32 rounding alone moves `answers`: from those of `graph` in float64."""
    return furthest({n: t.numpy() for n, t in Executor(graph, torch.float64)(feeds).items()}, answers, scales)


def coarseness(
    net: Net, dtype: str, inputs: Sequence[Feeds], answers: Sequence[Feeds], scales: Mapping[str, float]
) -> float:
    """How far rounding to `dtype` what kernels store in it, and nothing else, moves the answers to the inputs."""
    if exact(net.fused, dtype):
        return 0.0
    found = _run(as_stored(net.fused, dtype, net.plans.keep), inputs)
    # On grids a rounding moves answers far, and that of a wrong graph is not to be allowed to: from its own, then.
    answers = _run(Executor(net.fused), inputs) if on_grids(net.fused) else answers
    return max(furthest(results, answer, scales) for results, answer in zip(found, answers, strict=True))


def _run(executor: Executor, inputs: Sequence[Feeds]) -> list[Feeds]:
    return [{name: result.numpy() for name, result in executor(feeds).items()} for feeds in inputs]


def exact(graph: Graph, dtype: str) -> bool:
    """Whether what kernels store of the graph differs from the model's numbers by what float32 rounds, and no more."""
    return dtype == "fp32" and not on_grids(graph)


def as_stored(graph: Graph, dtype: str, keep: Collection[str] = ()) -> Executor:
    """Runs the fused `graph` with its weights and the results of its regions rounded to `dtype`.

    In fp32 nothing is: float64 then takes the other step of a grid as often as another order of sums does.
    keep: ONNX nodes whose regions are kept in float32.
    """
    if dtype == "fp32":
        return Executor(graph, torch.float64)
    kept = Kept.of(graph, keep)
    stored = graph.copy()
    exact = {value for node in graph.nodes() if node.name in kept.nodes for value in node.inputs}
    for name, array in graph.constants.items():
        integers = dtype == INT8 and name in graph.grids
        # Kernels keep vectors in float32.
        if array.ndim > 1 and array.dtype.kind == "f" and name not in exact and not integers:
            stored.constants[name] = _rounded(torch.tensor(array.astype(np.float32)), dtype).numpy()

    def store(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor if name in kept.values else _rounded(tensor, dtype)

    return Executor(stored, store=store)


def _rounded(x: torch.Tensor, dtype: str) -> torch.Tensor:
    return nearest_tf32(x) if dtype == "tf32" else x.to(torch_dtype(float_storage(dtype))).float()


def allowed(dtype: str, noise: float, grids: bool = False) -> float:
    """The relative L2 that an output may be off: the dtype's bound, unless the network is noisier than that.

    grids: whether values of it lie on some.

    A deep network can double each rounding error a few times: ONNX Runtime is 1.5e-5 from itself on some. Then what is
    allowed is twice the noise, of which what is measured is one sample, and ten bounds at most.
    """
    bound = max(BOUNDS[dtype], GRIDS_BOUND if grids else 0.0)
    return max(bound, min(NOISE_FACTOR * noise, NOISE_LIMIT * bound))


def magnified(bound: float, noise: float) -> float:
    """The relative L2 that an output of a network on grids may be off where each region is right by itself.

    bound: what it may be otherwise. noise: what rounding alone moves it by.
    """
    return max(bound, min(MAGNIFIED * noise, MAGNIFIED_LIMIT))


def agreement(result: np.ndarray, reference: np.ndarray, axis: int) -> tuple[float, float | None]:
    """How often the best class of both is the same, and how often the reference's is among the best five (None if
    there are no more than five). The classes lie along `axis`."""
    ours, theirs = (np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis]) for array in (result, reference))
    best = theirs.argmax(1)
    top1 = float((ours.argmax(1) == best).mean())
    if ours.shape[1] <= 5:
        return top1, None
    five: np.ndarray = np.argpartition(-ours, 5, axis=1)[:, :5]
    return top1, float((five == best[:, None]).any(1).mean())


def moved(answers: Feeds, others: Sequence[Feeds]) -> dict[str, float]:
    """How far each of `answers` moves, in relative L2, to what it is for the inputs that move it most."""
    found = {}
    for name, answer in answers.items():
        distances = [distance(*finite_part(other[name], answer))[0] for other in others]
        found[name] = max((d for d in distances if math.isfinite(d)), default=0.0)
    return found
