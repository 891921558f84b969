"""The pooled 1x1 convolution kernel beside its samples: strips as on a GPU, padding, NaN, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from optgraph.ir.values import IDENTITY, RELU, Act, Window
from optgraph.kernels import pointwise
from optgraph.kernels.frame.ends import Epilogue, Prologue
from optgraph.kernels.frame.tile import Tile
from optgraph.kernels.pooled_pointwise import POOLED_POINTWISE, pooled_pointwise, reference, sample
from tests.support.kernel_checks import check

SMALL = Tile(32, 32, 32)
BARE = Window((3, 3))
AROUND = Window((3, 3), pads=(1, 1, 1, 1))


@pytest.mark.parametrize("height", [3, 8, 13])
def test_strips_of_a_wide_map(height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optgraph.kernels.frame.rows.strip_rows", lambda *_: 4)  # as on a GPU
    window, after = Window((3, 3), (2, 2), (0, 0, 1, 1)), Epilogue(True, residual=True)
    check(POOLED_POINTWISE, sample((2, height, 21, 5), 7, window, after=after, tile=SMALL))


def test_padding_is_below_values_that_are_all_negative() -> None:
    x, weight, out = -torch.rand(1, 7, 9, 37) - 0.1, torch.randn(37, 41), torch.zeros(1, 7, 9, 41)
    pooled_pointwise(x, weight, out, window=AROUND, tile=SMALL)()
    expected = reference(x, weight, out, window=AROUND)
    assert (out - expected).norm() < 1e-6 * math.sqrt(37) * expected.norm()


@pytest.mark.parametrize("act", [IDENTITY, RELU])
def test_nan_stays_nan_and_stays_in_its_window(act: Act) -> None:
    x = torch.ones(1, 5, 5, 16)
    x[0, 0, 0, 3] = math.nan
    out = torch.zeros(1, 5, 5, 4)
    pooled_pointwise(x, torch.ones(16, 4), out, window=AROUND, before=Prologue(act=act), after=Epilogue(act=RELU))()
    assert out[0, :2, :2].isnan().all()
    assert (out[0, 2:] == 16).all() and (out[0, :, 2:] == 16).all()


def test_what_lies_around_the_image_is_not_read() -> None:
    around = torch.full((1, 9, 9, 24), math.nan)
    x, weight = around[:, 2:7, 2:7, 4:17], torch.randn(13, 5)
    x.normal_()
    out = torch.zeros(1, 5, 5, 5)
    pooled_pointwise(x, weight, out, window=AROUND, tile=SMALL)()
    torch.testing.assert_close(out.double(), reference(x, weight, out, window=AROUND), rtol=1e-5, atol=1e-5)


def test_reference_is_an_onnx_pool_and_convolution() -> None:
    x, weight, bias = torch.randn(2, 6, 7, 9).double(), torch.randn(5, 9, 1, 1).double(), torch.randn(5)
    window = Window((3, 2), (2, 1), (1, 0, 1, 0))
    y = reference(x, pointwise.pack(weight), x, window=window, after=Epilogue(bias, RELU))
    p = F.max_pool2d(x.permute(0, 3, 1, 2), (3, 2), (2, 1), (1, 0))
    torch.testing.assert_close(y, F.conv2d(p, weight, bias.double()).relu().permute(0, 2, 3, 1))


def test_bad_arguments_are_refused() -> None:
    x, weight, out = torch.zeros(1, 6, 6, 8), torch.zeros(8, 4), torch.zeros(1, 4, 4, 4)

    def refuses(message: str, *args: Any, window: Window = BARE, **options: Any) -> None:
        with pytest.raises(ValueError, match=message):
            pooled_pointwise(*args, window=window, **options)

    refuses("out has shape", x, weight, out, window=AROUND)
    refuses("out needs", x, weight, torch.zeros(1, 4, 4, 4).permute(0, 3, 1, 2))
    refuses("expected 2-D", x, torch.zeros(8, 4, 1, 1), out)
    refuses("weight has shape", x, torch.zeros(7, 4), out)
    refuses("bias is", x, weight, out, after=Epilogue(torch.zeros(4).half()))
    refuses("residual has shape", x, weight, out, after=Epilogue(residual=torch.zeros(1, 4, 4, 5)))
    refuses("no scale", x, weight, out, before=Prologue(torch.zeros(8)))
