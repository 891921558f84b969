"""The padding kernel beside its samples: exact values, what the operator means, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from optgraph.kernels.pad import pad, reference
from tests.support.kernel_checks import outside, poisoned


@pytest.mark.parametrize("value", [0.0, 2.5, -math.inf])
def test_values(value: float) -> None:
    x, out = torch.randn(2, 3, 4, 5), poisoned(2, 6, 5, 5)
    pad(x, out, begin=(1, 0, 0), value=value)()
    assert torch.equal(out, F.pad(x, (0, 0, 0, 1, 1, 2), value=value))
    assert outside(out).isnan().all()


@pytest.mark.parametrize("mode", ["constant", "replicate"])
def test_reference(mode: str) -> None:
    x = torch.randn(2, 3, 4, 5).double()
    expected = F.pad(x.permute(0, 3, 1, 2), (2, 0, 1, 3), mode=mode).permute(0, 2, 3, 1)
    assert torch.equal(reference(x, expected, begin=(1, 2, 0), edge=mode == "replicate"), expected)


@pytest.mark.parametrize("out", [torch.empty(2, 6, 6, 8), torch.empty(1, 8, 6, 6).permute(0, 2, 3, 1)])
def test_bad_output(out: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="out"):
        pad(torch.empty(1, 4, 4, 8), out, begin=(1, 1, 0))
