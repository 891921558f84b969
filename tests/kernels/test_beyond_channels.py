"""A block of a product is wider than the data: what an activation makes of the zeros there is to harm nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from optgraph.ir.values import Act, Window
from optgraph.kernels.bottleneck import BOTTLENECK
from optgraph.kernels.conv2d import CONV2D
from optgraph.kernels.frame.ends import Prologue, clears
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.pointwise import POINTWISE
from optgraph.kernels.pooled_pointwise import POOLED_POINTWISE
from optgraph.kernels.separable import SEPARABLE

ACTS = [Act("reciprocal"), Act("log"), Act("power", -2.0)]
WINDOW = {"window": Window((3, 3))}


def positive(*size: int) -> torch.Tensor:
    return torch.rand(size) + 0.5


# Of 20 channels: the kernel, its weights, and which of its activations is meant.
CASES: dict[str, tuple[Kernel, dict[str, torch.Tensor], Callable[[Act], dict[str, Any]]]] = {
    "pointwise": (POINTWISE, {"weight": positive(20, 4)}, lambda act: {"before": Prologue(act=act)}),
    "conv2d": (CONV2D, {"weight": positive(1, 3, 3, 20, 4)}, lambda act: WINDOW | {"before": Prologue(act=act)}),
    "pooled": (POOLED_POINTWISE, {"weight": positive(20, 4)}, lambda act: WINDOW | {"before": Prologue(act=act)}),
    "separable, before": (
        SEPARABLE,
        {"depthwise": positive(3, 3, 20), "weight": positive(20, 4)},
        lambda act: WINDOW | {"before": Prologue(act=act)},
    ),
    "separable, between": (
        SEPARABLE,
        {"depthwise": positive(3, 3, 20), "weight": positive(20, 4)},
        lambda act: WINDOW | {"mid": act},
    ),
    "bottleneck, before": (
        BOTTLENECK,
        {"conv_weight": positive(1, 3, 3, 20, 20), "weight": positive(20, 4)},
        lambda act: WINDOW | {"before": Prologue(act=act)},
    ),
    "bottleneck, between": (
        BOTTLENECK,
        {"conv_weight": positive(1, 3, 3, 20, 20), "weight": positive(20, 4)},
        lambda act: WINDOW | {"mid": act},
    ),
}


@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.kind)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_zeros_beyond_the_channels_harm_nothing(case: Any, act: Act) -> None:
    kernel, weights, options = case
    x, side = positive(1, 5, 5, 20), 5 if kernel is POINTWISE else 3
    out = torch.full((1, side, side, 4), torch.nan)
    arguments = {"x": x, **weights, ("outs" if kernel is POINTWISE else "out"): [out] if kernel is POINTWISE else out}
    kernel.launcher(**arguments, **options(act), precision="ieee")()
    expected = kernel.reference(**arguments, **options(act), precision="ieee")
    expected = expected[0] if isinstance(expected, list | tuple) else expected
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)


def test_only_where_it_must() -> None:
    assert all(map(clears, ACTS)) and not any(clears(Act(kind)) for kind in ("relu", "sigmoid", "exp", "prelu"))
