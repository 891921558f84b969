"""The depthwise kernel beside its samples: strips as on a GPU, NaN, packing, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from optgraph.base.devices import SM_90
from optgraph.ir.values import RELU, Window
from optgraph.kernels.depthwise import DEPTHWISE, depthwise, pack, reference, sample
from optgraph.kernels.frame.ends import Epilogue, Prologue
from optgraph.kernels.frame.rows import strip_rows
from optgraph.kernels.frame.tile import Tile
from tests.support.kernel_checks import check, poisoned


def test_nan_reaches_only_its_windows() -> None:
    x, weight, out = torch.randn(1, 5, 5, 2), torch.ones(3, 3, 2), poisoned(1, 3, 3, 2)
    x[0, 0, 0, 1] = math.nan
    depthwise(x, weight, out, window=Window((3, 3)), after=Epilogue(act=RELU))()
    assert out.isnan().nonzero().tolist() == [[0, 0, 0, 1]]


def test_reference() -> None:
    x, weight, bias = torch.randn(2, 6, 5, 4).double(), torch.randn(4, 1, 3, 3).double(), torch.randn(4).double()
    expected = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride=2, padding=(1, 2), groups=4)
    window = Window((3, 3), (2, 2), (1, 2, 1, 2))
    actual = reference(x, pack(weight), x, window=window, after=Epilogue(bias))
    torch.testing.assert_close(actual, expected.permute(0, 2, 3, 1))


@pytest.mark.parametrize("height", [1, 3, 4, 7, 10, 19, 147])
@pytest.mark.parametrize("block_m", [1, 4, 16, 64])
def test_strips_waste_little(height: int, block_m: int) -> None:
    strip = strip_rows(height, 3, 1, block_m, SM_90)
    assert strip**2 <= block_m
    assert -(-height // strip) * strip <= 1.5 * height


@pytest.mark.parametrize("height", [5, 8])
@pytest.mark.parametrize("strip", [2, 4])
def test_strips(monkeypatch: pytest.MonkeyPatch, height: int, strip: int) -> None:
    monkeypatch.setattr("optgraph.kernels.frame.rowwise.strip_rows", lambda *_: strip)
    after, window = Epilogue(True, residual=True), Window((3, 3), pads=(1, 1, 1, 1))
    check(DEPTHWISE, sample((3, height, 7, 5), window, after=after, tile=Tile(32, 16)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": torch.empty(1, 4, 4, 8)}, "out"),
        ({"out": torch.empty(1, 8, 2, 2).permute(0, 2, 3, 1)}, "out"),
        ({"weight": torch.empty(3, 3, 7)}, "weight"),
        ({"weight": torch.empty(8, 1, 3, 3)}, "weight"),
        ({"after": Epilogue(torch.empty(7))}, "bias"),
        ({"after": Epilogue(torch.empty(8).half())}, "bias"),
        ({"before": Prologue(torch.empty(9))}, "pre_scale"),
        ({"after": Epilogue(residual=torch.empty(1, 2, 2, 9))}, "residual"),
        ({"window": Window((3, 3), stride=(2, 2))}, "out"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    arguments = {"x": torch.empty(1, 4, 4, 8), "weight": torch.empty(3, 3, 8), "window": Window((3, 3)), **options}
    arguments.setdefault("out", torch.empty(1, 2, 2, 8))
    with pytest.raises(ValueError, match=message):
        depthwise(**arguments)
