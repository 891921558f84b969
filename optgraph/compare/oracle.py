"""The oracle: what to ask an original model, how far another answer is from its own, and how far it may be."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch

from optgraph.base.dtypes import STORAGE, nearest_tf32, torch_dtype
from optgraph.base.images import images
from optgraph.ir.graph import Graph
from optgraph.ir.values import Value, channels_last
from optgraph.onnx.sessions import Feeds
from optgraph.run.reference import Executor

BOUNDS = {"fp32": 1e-5, "tf32": 3e-3, "fp16": 5e-3, "bf16": 3e-2}  # relative L2 of an output, by dtype
NOISE_FACTOR, NOISE_LIMIT = 2.0, 10.0


def distance(result: torch.Tensor | np.ndarray, reference: torch.Tensor | np.ndarray) -> tuple[float, float]:
    """Relative L2, ‖result - reference‖ / ‖reference‖, and the largest absolute difference.

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
    return error / norm if norm else math.inf, float(difference.abs().max())


def noise(plain: Feeds, optimized: Feeds) -> float:
    """How far float32 rounding alone moves a network: ONNX Runtime from itself, without and with its optimisations."""
    return max(distance(optimized[name], plain[name])[0] for name in plain)


def coarseness(graph: Graph, dtype: str, feeds: Feeds, answers: Feeds) -> float:
    """How far rounding the weights to `dtype`, and nothing else, moves the answers of the fused `graph`.

    It moves them more than rounding every activation does: a weight is off by the same on all pixels of an image, so
    no average evens it out.
    """
    if dtype == "fp32":
        return 0.0
    rounded = graph.copy()
    for name, array in graph.constants.items():
        if array.ndim > 1 and array.dtype.kind == "f":  # kernels keep vectors in float32
            rounded.constants[name] = _rounded(array.astype(np.float32), dtype)
    results = Executor(rounded)(feeds)
    return max(distance(results[name], answers[name])[0] for name in answers)


def _rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    x = torch.tensor(array)
    rounded = nearest_tf32(x) if dtype == "tf32" else x.to(torch_dtype(STORAGE[dtype])).float()
    return rounded.numpy()


def allowed(dtype: str, noise: float) -> float:
    """The relative L2 that an output may be off: the dtype's bound, unless the network is noisier than that.

    A deep network can double each rounding error a few times: ONNX Runtime is 1.5e-5 from itself on some. Then what is
    allowed is twice the noise, for ours and the reference's are two samples of it, and ten bounds at most.
    """
    return max(BOUNDS[dtype], min(NOISE_FACTOR * noise, NOISE_LIMIT * BOUNDS[dtype]))


def example(inputs: Mapping[str, Value], batch: int, seed: int) -> dict[str, np.ndarray]:
    """Something to feed each input: smooth images to a rank-4 one, random numbers to the others."""
    rng = np.random.default_rng(seed)
    feeds: dict[str, np.ndarray] = {}
    for name, value in inputs.items():
        shape = tuple(batch if isinstance(d, str) else d for d in value.shape)
        dtype = np.dtype(value.dtype)
        array: np.ndarray
        if dtype.kind != "f":
            array = rng.integers(0, 2 if dtype.kind == "b" else 128, shape)
        elif len(shape) == 4:
            array = images(rng, shape, channels_last(shape))
        else:
            array = rng.standard_normal(shape)
        feeds[name] = array.astype(dtype)
    return feeds
