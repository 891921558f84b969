"""tf32: operands are rounded to the nearest, not cut off, before tensor cores see them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from optgraph.base.dtypes import nearest_tf32
from optgraph.ir.values import Window
from optgraph.kernels import conv2d, dense, pointwise, separable
from optgraph.passes import pipeline
from optgraph.plan.lowering import lower
from optgraph.plan.plan import Packed
from optgraph.plan.weights import Weights, as_is
from tests.support.networks import xception


def test_nearest_keeps_ten_bits_and_what_is_no_number() -> None:
    step = 2.0**-10
    x = torch.tensor([1 + 0.49 * step, 1 + 0.51 * step, -1 - 0.51 * step, 0.0, math.inf, -math.inf, 3.0])
    assert nearest_tf32(x).tolist() == [1.0, 1 + step, -1 - step, 0.0, math.inf, -math.inf, 3.0]
    poison = torch.tensor([-1], dtype=torch.int32).view(torch.float32)  # all bits set
    assert nearest_tf32(poison).isnan().all()


def launches(precision: str) -> dict[str, tuple[Callable[[torch.Tensor], Any], Callable[[torch.Tensor], Any]]]:
    """Kernel -> (what it computes from x, its float64 reference); weights are rounded already."""
    torch.manual_seed(1)
    square = nearest_tf32(torch.randn(24, 24))
    window, depthwise = nearest_tf32(torch.randn(1, 3, 3, 24, 24)), torch.ones(1, 1, 24)

    def image(x: torch.Tensor) -> torch.Tensor:
        return torch.full((1, 5, 6, 24), math.nan)

    def run(launcher: Callable[..., Any], x: torch.Tensor, *weights: Any, **options: Any) -> torch.Tensor:
        out = torch.full((x.shape[0], 24), math.nan) if x.dim() == 2 else image(x)
        outs = [out] if launcher is pointwise.pointwise else out
        launcher(x, *weights, outs, precision=precision, **options)()
        return out

    three, one = {"window": Window((3, 3), pads=(1, 1, 1, 1))}, {"window": Window((1, 1))}
    return {
        "pointwise": (
            lambda x: run(pointwise.pointwise, x, square),
            lambda x: pointwise.reference(x, square, [image(x)])[0],
        ),
        "conv2d": (
            lambda x: run(conv2d.conv2d, x, window, **three),
            lambda x: conv2d.reference(x, window, image(x), **three),
        ),
        "separable": (
            lambda x: run(separable.separable, x, depthwise, square, **one),
            lambda x: separable.reference(x, depthwise, square, image(x), **one),
        ),
        "dense": (
            lambda x: run(dense.dense, x.reshape(-1, 24), square),
            lambda x: dense.reference(x.reshape(-1, 24), square, x),
        ),
    }


@pytest.mark.parametrize("kernel", ["pointwise", "conv2d", "separable", "dense"])
def test_kernels_round_what_they_multiply(kernel: str) -> None:
    x = torch.randn(1, 5, 6, 24, generator=torch.Generator().manual_seed(0))
    compute, reference = launches("tf32")[kernel]
    expected = reference(nearest_tf32(x))
    assert (compute(x) - expected).norm() / expected.norm() < 1e-6 * math.sqrt(216)
    exact = launches("ieee")[kernel][0](x)
    assert 1e-4 < (exact - expected).norm() / expected.norm() < 1e-3


def test_nan_reaches_the_result() -> None:
    x = torch.ones(1, 5, 6, 24)
    x[0, 2, 3, 4] = math.nan
    assert launches("tf32")["pointwise"][0](x)[0, 2, 3].isnan().all()


def test_matrices_are_rounded_when_packed_and_vectors_are_not() -> None:
    graph = xception()
    pipeline.apply(graph, pipeline.SIMPLIFY + pipeline.FUSE)
    found = {(p.pack, p.precision) for p in lower(graph, dtype="tf32").packed.values()}
    assert found >= {(pointwise.pack, "tf32"), (separable.pack_depthwise, "ieee"), (as_is, "ieee")}
    assert {precision for pack, precision in found if pack is as_is} == {"ieee"}
    assert all(p.precision == "ieee" for p in lower(graph, dtype="fp32").packed.values())
    array = np.random.default_rng(0).standard_normal((3, 4), dtype=np.float32)
    weights = Weights({"w": array}, torch.device("cpu"))
    stored = weights.get("w", Packed(as_is, ("w",), "float32", {}, "tf32"))
    torch.testing.assert_close(stored, nearest_tf32(torch.tensor(array)), rtol=0, atol=0)
    assert not torch.equal(stored, torch.tensor(array))
