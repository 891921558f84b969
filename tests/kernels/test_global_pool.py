"""The kernel that pools whole images, beside its samples: NaN, its tile, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch

from optgraph.base.devices import SM_90
from optgraph.kernels.frame.ends import Prologue
from optgraph.kernels.frame.tile import Tile
from optgraph.kernels.global_pool import global_pool, global_tile
from tests.support.kernel_checks import poisoned


@pytest.mark.parametrize("kind", ["max", "average"])
def test_nan(kind: str) -> None:
    x, out = torch.randn(2, 5, 5, 6), poisoned(2, 1, 1, 6)
    x[1, 2, 3, 4] = math.nan
    global_pool(x, out, kind=kind, tile=Tile(8, 4))()
    assert out.isnan().nonzero().tolist() == [[1, 0, 0, 4]]


def test_it_occupies_the_device_at_batch_one() -> None:
    tile = global_tile(1, 64, 2048, SM_90)
    assert 2048 // tile.block_n >= 100
    assert global_tile(256, 64, 2048, SM_90).block_n == 128


def test_bad_arguments() -> None:
    x, out = torch.empty(2, 4, 4, 8), torch.empty(2, 1, 1, 8)
    with pytest.raises(ValueError, match="out"):
        global_pool(x, torch.empty(2, 8), kind="max")
    with pytest.raises(ValueError, match="pre_scale"):
        global_pool(x, out, kind="max", before=Prologue(torch.empty(7)))
    with pytest.raises(ValueError, match="kind"):
        global_pool(x, out, kind="sum")
