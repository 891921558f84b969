"""The LRN kernel in the interpreter against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from optgraph.kernels.frame.choice import Tile
from optgraph.kernels.lrn import lrn, reference
from tests.support.kernel_checks import DTYPES, check, image, poisoned, sliced

ALEXNET = {"size": 5, "alpha": 1e-4, "beta": 0.75, "bias": 1.0}
STRONG = {"size": 5, "alpha": 2.0, "beta": 0.75, "bias": 0.5}  # the sum decides, not the bias


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tile", [None, Tile(16, 16), Tile(4, 64)])
@pytest.mark.parametrize("shape", [(1, 7, 9, 37), (3, 5, 4, 3), (2, 3, 3, 96), (2, 4, 1, 1)])
def test_odd_sizes(shape: tuple[int, ...], tile: Tile | None, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, out = image(*shape, dtype=dtype, nchw=tile is None), poisoned(*shape, dtype=dtype)
    lrn(x, out, tile=tile, **STRONG)()
    check(out, reference(x, out, **STRONG), 5)


@pytest.mark.parametrize("size", [1, 2, 4, 5, 9, 50])
@pytest.mark.parametrize("beta", [0.75, 1.0, -0.5])
def test_parameters(size: int, beta: float) -> None:
    x, out = sliced(2, 3, 5, 21), poisoned(2, 3, 5, 21)
    options: dict[str, Any] = {"size": size, "alpha": 0.7, "beta": beta, "bias": 2.0}
    lrn(x, out, tile=Tile(8, 8), **options)()
    check(out, reference(x, out, **options), size)


def test_neighbours_of_the_slice_do_not_count() -> None:
    wide = torch.full((1, 2, 2, 20), 1e3)
    x, out = wide[..., 6:12], poisoned(1, 2, 2, 6)
    x.normal_()
    lrn(x, out, tile=Tile(4, 4), **STRONG)()
    check(out, reference(x.clone(), out, **STRONG), 5)


def test_nan_reaches_only_its_neighbours() -> None:
    x, out = image(1, 2, 2, 9), poisoned(1, 2, 2, 9)
    x[0, 1, 0, 4] = torch.nan
    lrn(x, out, **ALEXNET)()
    assert out.isnan().nonzero().tolist() == [[0, 1, 0, c] for c in range(2, 7)]


def test_reference() -> None:
    x = image(2, 3, 4, 11).double()
    expected = F.local_response_norm(x.permute(0, 3, 1, 2), 5, 2.0, 0.75, 0.5).permute(0, 2, 3, 1)
    torch.testing.assert_close(reference(x, x, **STRONG), expected)


def test_an_even_window_reaches_further_up() -> None:
    x = torch.tensor([1.0, 2.0, 3.0]).reshape(1, 1, 1, 3)
    got = reference(x, x, size=2, alpha=2.0, beta=1.0, bias=0.0)
    torch.testing.assert_close(got.flatten(), torch.tensor([1 / 5, 2 / 13, 3 / 9], dtype=torch.float64))


@pytest.mark.parametrize("out", [torch.empty(1, 4, 4, 9), torch.empty(1, 8, 4, 4).permute(0, 2, 3, 1)])
def test_bad_output(out: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="out"):
        lrn(torch.empty(1, 4, 4, 8), out, **ALEXNET)
