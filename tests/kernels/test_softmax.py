"""The softmax kernel beside its samples: extreme values, its tile, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch

from optgraph.base.devices import SM_90
from optgraph.kernels.frame.tile import Tile
from optgraph.kernels.softmax import reference, softmax, softmax_tile
from tests.support.kernel_checks import poisoned

# numpy, where a row is all -inf
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow|All-NaN)")


@pytest.mark.parametrize("tile", [Tile(2, 64), Tile(2, 16)])
def test_it_is_stable(tile: Tile) -> None:
    x = torch.full((3, 40), -3e38)
    x[0, 7], x[1, 30] = 3e38, 1e4
    x[2] = torch.linspace(9e3, 1e4, 40)
    out = poisoned(3, 40)
    softmax(x, out, tile=tile)()
    expected = reference(x, out)
    assert (out - expected).norm() < 1e-6 * math.sqrt(10) * expected.norm()


@pytest.mark.parametrize("tile", [Tile(2, 64), Tile(2, 16)])
def test_nan_and_infinity(tile: Tile) -> None:
    x = torch.zeros(4, 40)
    x[0, 5] = math.nan
    x[1] = -math.inf
    x[2, :20] = -math.inf
    out = poisoned(4, 40)
    softmax(x, out, tile=tile)()
    torch.testing.assert_close(out, torch.softmax(x, -1), equal_nan=True)


def test_tiles() -> None:
    assert softmax_tile(8, 1000, SM_90).block_n == 1024
    assert softmax_tile(8, 65536, SM_90).block_n == 4096


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="out"):
        softmax(torch.empty(2, 5), torch.empty(2, 6))
    with pytest.raises(ValueError, match="2 dimensions"):
        softmax(torch.empty(2, 5, 1), torch.empty(2, 5, 1))
    with pytest.raises(ValueError, match="contiguous"):
        softmax(torch.empty(2, 5), torch.empty(5, 2).t())
