"""Images to try a network on: random, and yet smooth, as photographs are."""

from __future__ import annotations

from typing import Any

import numpy as np


def images(
    seed: int | np.random.Generator, shape: tuple[int, ...], channels_last: bool = False
) -> np.ndarray[Any, np.dtype[Any]]:
    """Smooth random images as float32 of `shape`, N×C×H×W or N×H×W×C, of about unit variance.

    Each is a sum of a few cosines along each axis with a contrast of its own, and fine grain on top.
    """
    rng = np.random.default_rng(seed)
    n, c, h, w = (shape[0], shape[3], shape[1], shape[2]) if channels_last else shape
    down, across = (np.cos(np.pi * np.outer(np.arange(5), np.linspace(0.0, 1.0, length))) for length in (h, w))
    amplitude = rng.standard_normal((n, c, 5, 5)) * rng.uniform(0.8, 1.2, (n, 1, 1, 1)) / 3.0
    picture = np.einsum("ncuv,uh,vw->nchw", amplitude, down, across)
    picture += rng.normal(0.0, 0.3, picture.shape)
    return np.ascontiguousarray(picture.transpose(0, 2, 3, 1) if channels_last else picture, dtype=np.float32)
