"""The reduce kernel beside its samples: NaN, infinities, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch

from optgraph.kernels.frame.tile import Tile
from optgraph.kernels.reduce import REDUCTIONS, reduce, reference
from tests.support.kernel_checks import poisoned

# numpy, in a line of nothing but NaN
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|All-NaN)")


@pytest.mark.parametrize("kind", REDUCTIONS)
@pytest.mark.parametrize("tile", [None, Tile(2, 4)])
def test_nan_and_infinity(kind: str, tile: Tile | None) -> None:
    x = torch.randn(1, 2, 2, 9)
    x[0, 0, 0, 4], x[0, 0, 1, 8], x[0, 1, 0] = math.nan, math.inf, math.nan
    out = poisoned(1, 2, 2, 1)
    reduce(x, out, kind=kind, tile=tile)()
    torch.testing.assert_close(out.double(), reference(x, out, kind=kind), equal_nan=True, rtol=1e-5, atol=1e-6)


def test_bad_arguments() -> None:
    x = torch.empty(1, 2, 3, 4)
    with pytest.raises(ValueError, match="kind is 'median'"):
        reduce(x, torch.empty(1, 2, 3, 1), kind="median")
    with pytest.raises(ValueError, match="out"):
        reduce(x, torch.empty(1, 2, 3, 4), kind="sum")
    with pytest.raises(ValueError, match="N, H, W, C"):
        reduce(x[0], torch.empty(2, 3, 1), kind="sum")
