"""Something to feed a network with, where nobody gave anything."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from optgraph.base.images import images
from optgraph.ir.values import Value, channels_last


def example(inputs: Mapping[str, Value], batch: int, seed: int, smooth: bool = True) -> dict[str, np.ndarray]:
    """Smooth images for each input of rank 4, or if not `smooth` random numbers, as for the others."""
    rng = np.random.default_rng(seed)
    feeds: dict[str, np.ndarray] = {}
    for name, value in inputs.items():
        shape = tuple(batch if isinstance(d, str) else d for d in value.shape)
        dtype = np.dtype(value.dtype)
        array: np.ndarray
        if dtype.kind != "f":
            array = rng.integers(0, 2 if dtype.kind == "b" else 128, shape)
        elif len(shape) == 4 and smooth:
            array = images(rng, shape, channels_last(shape))
        else:
            array = rng.standard_normal(shape)
        feeds[name] = array.astype(dtype)
    return feeds


def examples(inputs: Mapping[str, Value]) -> list[dict[str, np.ndarray]]:
    """Two smooth images and one of noise, to see what numbers a network makes of its inputs."""
    return [example(inputs, 1, seed=0), example(inputs, 1, seed=1), example(inputs, 1, seed=0, smooth=False)]
