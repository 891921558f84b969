"""The LRN kernel beside its samples: NaN, what the operator means, and what it refuses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from optgraph.kernels.lrn import lrn, reference
from tests.support.kernel_checks import poisoned

ALEXNET = {"size": 5, "alpha": 1e-4, "beta": 0.75, "bias": 1.0}
STRONG = {"size": 5, "alpha": 2.0, "beta": 0.75, "bias": 0.5}  # the sum decides, not the bias


def test_nan_reaches_only_its_neighbours() -> None:
    x, out = torch.randn(1, 2, 2, 9), poisoned(1, 2, 2, 9)
    x[0, 1, 0, 4] = torch.nan
    lrn(x, out, **ALEXNET)()
    assert out.isnan().nonzero().tolist() == [[0, 1, 0, c] for c in range(2, 7)]


def test_reference() -> None:
    x = torch.randn(2, 3, 4, 11).double()
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
