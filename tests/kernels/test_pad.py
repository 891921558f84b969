"""The padding kernel in the interpreter against float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from optgraph.kernels.frame.choice import Tile
from optgraph.kernels.pad import pad, reference
from tests.support.kernel_checks import DTYPES, check, image, outside, poisoned


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tile", [None, Tile(16, 16), Tile(4, 64)])
@pytest.mark.parametrize("pads", [(1, 1, 1, 1), (0, 3, 2, 0), (-1, 2, 0, -2)])
@pytest.mark.parametrize("edge", [False, True])
@pytest.mark.parametrize("shape", [(1, 7, 9, 37), (3, 5, 4, 3)])
def test_pads(shape: tuple[int, ...], edge: bool, pads: tuple[int, ...], tile: Tile | None, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    n, h, w, c = shape
    top, left, bottom, right = pads
    x = image(*shape, dtype=dtype, nchw=tile is None)
    out = poisoned(n, h + top + bottom, w + left + right, c, dtype=dtype)
    pad(x, out, begin=(top, left), value=0.5, edge=edge, tile=tile)()
    check(out, reference(x, out, begin=(top, left), value=0.5, edge=edge))


@pytest.mark.parametrize("value", [0.0, 2.5, -math.inf])
def test_values(value: float) -> None:
    x, out = image(2, 3, 4, 5), poisoned(2, 6, 5, 5)
    pad(x, out, begin=(1, 0), value=value)()
    assert torch.equal(out, F.pad(x, (0, 0, 0, 1, 1, 2), value=value))
    assert outside(out).isnan().all()


@pytest.mark.parametrize("mode", ["constant", "replicate"])
def test_reference(mode: str) -> None:
    x = image(2, 3, 4, 5).double()
    expected = F.pad(x.permute(0, 3, 1, 2), (2, 0, 1, 3), mode=mode).permute(0, 2, 3, 1)
    assert torch.equal(reference(x, expected, begin=(1, 2), edge=mode == "replicate"), expected)


@pytest.mark.parametrize("out", [torch.empty(1, 6, 6, 9), torch.empty(1, 8, 6, 6).permute(0, 2, 3, 1)])
def test_bad_output(out: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="out"):
        pad(torch.empty(1, 4, 4, 8), out, begin=(1, 1))
