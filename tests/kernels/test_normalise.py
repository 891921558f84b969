"""The normalise kernel beside its samples: NaN, small variances, and what it refuses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from optgraph.kernels.frame.tile import Tile
from optgraph.kernels.normalise import normalise, reference
from tests.support.kernel_checks import poisoned

TILES = pytest.mark.parametrize("tile", [Tile(2, 16), Tile(2, 64)], ids=["in blocks", "in one"])


@TILES
def test_nan_reaches_its_line_only(tile: Tile) -> None:
    x, out = torch.randn(1, 2, 2, 40), poisoned(1, 2, 2, 40)
    x[0, 1, 0, 39] = torch.nan
    normalise(x, out, tile=tile)()
    assert out.isnan().any(-1).tolist() == [[[False, False], [True, False]]]
    assert out[0, 1, 0].isnan().all()


@TILES
def test_a_large_mean_hides_no_variance(tile: Tile) -> None:
    """The mean of squares less the square of the mean would be zero here, or less."""
    x, out = 4096.0 + torch.randn(1, 1, 2, 40), poisoned(1, 1, 2, 40)
    normalise(x, out, tile=tile)()
    torch.testing.assert_close(out.double(), reference(x, out), rtol=1e-3, atol=1e-3)


def test_reference() -> None:
    x, scale, shift = torch.randn(2, 3, 4, 11).double(), torch.randn(11).double(), torch.randn(11).double()
    expected = F.layer_norm(x, (11,), scale, shift, 0.1)
    torch.testing.assert_close(reference(x, x, scale=scale, shift=shift, epsilon=0.1), expected)
    scale, shift = torch.randn(4).double(), torch.randn(4).double()
    expected = F.instance_norm(x.flatten(0, 1), weight=scale, bias=shift).view(x.shape)
    torch.testing.assert_close(reference(x, x, scale=scale, shift=shift, by_line=True), expected)


def test_what_it_refuses() -> None:
    x = torch.empty(1, 2, 3, 8)
    with pytest.raises(ValueError, match="out has shape"):
        normalise(x, torch.empty(1, 2, 3, 9))
    for by_line, size in ((False, 3), (True, 8)):
        with pytest.raises(ValueError, match="scale has shape"):
            normalise(x, x, scale=torch.empty(size), by_line=by_line)
