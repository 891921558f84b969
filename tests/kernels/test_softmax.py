"""The softmax kernel beside its samples: extreme values, its tile, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch

from optgraph.base.devices import SM_90
from optgraph.kernels.frame.lines import Lines
from optgraph.kernels.frame.tile import Tile
from optgraph.kernels.softmax import reference, softmax
from tests.support.kernel_checks import poisoned

# numpy, where a row is all -inf
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow|All-NaN)")


@pytest.mark.parametrize("tile", [Tile(2, 64), Tile(2, 16)])
def test_it_is_stable(tile: Tile) -> None:
    x = torch.full((1, 1, 3, 40), -3e38)
    x[0, 0, 0, 7], x[0, 0, 1, 30] = 3e38, 1e4
    x[0, 0, 2] = torch.linspace(9e3, 1e4, 40)
    out = poisoned(1, 1, 3, 40)
    softmax(x, out, tile=tile)()
    expected = reference(x, out)
    assert (out - expected).norm() < 1e-6 * math.sqrt(10) * expected.norm()


@pytest.mark.parametrize("tile", [Tile(2, 64), Tile(2, 16)])
def test_nan_and_infinity(tile: Tile) -> None:
    x = torch.zeros(1, 1, 4, 40)
    rows = x[0, 0]
    rows[0, 5] = math.nan
    rows[1] = -math.inf
    rows[2, :20] = -math.inf
    out = poisoned(1, 1, 4, 40)
    softmax(x, out, tile=tile)()
    torch.testing.assert_close(out, torch.softmax(x, -1), equal_nan=True)


def test_tiles() -> None:
    def tile(*shape: int, apart: bool = False) -> Tile:
        x = torch.empty(*shape, device="meta")
        x = x.movedim(1, 3) if apart else x
        return Lines.of(x, x).tile(SM_90)

    assert tile(1, 1, 8, 1000).block_n == 1024
    assert tile(1, 1, 8, 65536).block_n == 4096
    assert (tile(8, 16, 4, 8400, apart=True).block_m, tile(8, 16, 4, 8400, apart=True).block_n) == (64, 16)
    assert tile(1, 1, 64, 10).block_m * 16 == 512


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="out"):
        softmax(torch.empty(1, 1, 2, 5), torch.empty(1, 1, 2, 6))
    with pytest.raises(ValueError, match="N, H, W, C"):
        softmax(torch.empty(2, 5, 1), torch.empty(2, 5, 1))
