"""A PRelu in the epilogue, beyond what samples say: special numbers, and what a launcher refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from optgraph.ir.values import IDENTITY, PRELU, RELU, Window
from optgraph.kernels.dense import dense
from optgraph.kernels.depthwise import depthwise
from optgraph.kernels.elementwise import elementwise
from optgraph.kernels.frame.ends import Epilogue, Prologue
from optgraph.kernels.pointwise import pointwise
from optgraph.kernels.separable import separable

NAN, INF = math.nan, math.inf
NUMBERS = (NAN, INF, -INF, 0.0, -2.0, 3.0)
SLOPES = (0.0, -1.5, 2.0, 0.25)


@pytest.mark.parametrize("post", [False, True])
def test_special_numbers(post: bool) -> None:
    """As torch has it: of -Inf and a slope of 0 a NaN."""
    x = torch.tensor(NUMBERS).view(1, 6, 1, 1).expand(1, 6, 1, 4).contiguous()
    slope, out = torch.tensor(SLOPES), torch.empty(1, 6, 1, 4)
    ends: dict[str, Any] = {"residual": torch.zeros_like(out), "post": PRELU} if post else {"act": PRELU}
    depthwise(x, torch.ones(1, 1, 4), out, window=Window((1, 1)), after=Epilogue(slope=slope, **ends))()
    expected = torch.nn.functional.prelu(x.permute(0, 3, 1, 2), slope).permute(0, 2, 3, 1)
    torch.testing.assert_close(out, expected, equal_nan=True, rtol=0, atol=0)
    assert out[0, 0].isnan().all() and out[0, 2].isnan().sum() == 1


X, OUT, VECTOR = torch.ones(1, 2, 2, 16), torch.empty(1, 2, 2, 16), torch.ones(16)
WEIGHT = torch.ones(16, 16)


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (Epilogue(act=PRELU), "slope is absent, and what it is for is prelu, identity"),
        (Epilogue(act=RELU, slope=VECTOR), "slope is given, and what it is for is relu, identity"),
        (
            Epilogue(act=PRELU, residual=X, post=PRELU, slope=VECTOR),
            "slope is given, and what it is for is prelu, prelu",
        ),
        (Epilogue(act=PRELU, slope=VECTOR[:4]), r"slope has shape \(4,\), expected \(16,\)"),
        (Epilogue(act=PRELU, slope=VECTOR.half()), "slope is torch.float16"),
    ],
)
def test_slopes_must_fit(after: Epilogue, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pointwise(X, WEIGHT, [OUT], after=after)


def test_so_must_those_between_two_convolutions_and_of_a_dense_layer() -> None:
    window, filters = Window((1, 1)), torch.ones(1, 1, 16)
    for mid, slope in ((PRELU, None), (IDENTITY, VECTOR)):
        with pytest.raises(ValueError, match="mid_slope is"):
            separable(X, filters, WEIGHT, OUT, window=window, mid=mid, mid_slope=slope)
        with pytest.raises(ValueError, match="slope is"):
            dense(torch.ones(2, 16), WEIGHT, torch.empty(2, 16), act=mid, slope=slope)


def test_where_no_slopes_go_there_is_no_prelu() -> None:
    with pytest.raises(ValueError, match="a PRelu needs a slope a channel"):
        elementwise(X, OUT, before=Prologue(act=PRELU))
    with pytest.raises(ValueError, match="a PRelu needs a slope a channel"):
        pointwise(X, torch.ones(16, 32), [OUT, torch.empty_like(OUT)], acts=(PRELU, IDENTITY))
