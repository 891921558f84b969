"""The matmul kernel beside its samples: NaN, its tile, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from optgraph.base.devices import SM_90
from optgraph.kernels.frame.sample import image
from optgraph.kernels.matmul import MATMUL, matmul, sample
from optgraph.tune.layers import Layer
from tests.support.kernel_checks import poisoned


def test_nan_reaches_its_row_only() -> None:
    x, y, out = torch.randn(1, 2, 5, 9), torch.randn(1, 2, 9, 4), poisoned(1, 2, 5, 4)
    x[0, 1, 3, 8] = torch.nan
    matmul(x, y, out)()
    assert out.isnan().nonzero().tolist() == [[0, 1, 3, column] for column in range(4)]


def test_scattered_elements_get_small_blocks() -> None:
    apart = [image(2, *size, 8).permute(0, 3, 1, 2) for size in ((512, 512), (512, 512), (512, 512))]
    together = [image(2, 8, 512, 512)] * 3
    tiles = [Layer(MATMUL, sample(*views).typed("fp16")).dry(SM_90).tile for views in (apart, together)]
    assert tiles[0].block_m * tiles[0].block_n <= 64 * 64 < tiles[1].block_m * tiles[1].block_n


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(2, 3, 4, 5), (2, 3, 6, 7), (2, 3, 4, 7)], "y"),
        ([(2, 3, 4, 5), (2, 3, 5, 7), (2, 3, 4, 8)], "y"),
        ([(2, 3, 4, 5), (2, 3, 5, 7), (2, 3, 5, 7)], "x"),
        ([(3, 4, 5), (2, 3, 5, 7), (2, 3, 4, 7)], "x"),
        ([(2, 3, 4, 5), (2, 3, 5, 7), (3, 4, 7)], "out"),
    ],
)
def test_bad_shapes(shapes: list[tuple[int, ...]], message: str) -> None:
    x, y, out = (torch.empty(shape) for shape in shapes)
    with pytest.raises(ValueError, match=f"^{message} has shape"):
        matmul(x, y, out)
