"""The pooled 1x1 convolution kernel in the interpreter against float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from optgraph.ir.values import IDENTITY, RELU, Act
from optgraph.kernels import pointwise, pooled_pointwise
from optgraph.kernels.frame.choice import Tile
from optgraph.kernels.frame.operands import output_size
from tests.support.kernel_checks import DTYPES

SMALL = Tile(32, 32, 32)
CLIP = Act("clip", 0.1, 0.5)  # of -inf it is not -inf: padding must be masked after it


def run(
    shape: tuple[int, int, int, int],
    cout: int,
    kernel: tuple[int, int] = (3, 3),
    *,
    dtype: torch.dtype = torch.float32,
    tile: Tile | None = None,
    strided: bool = False,
    with_bias: bool = True,
    with_residual: bool = False,
    **options: Any,
) -> None:
    torch.manual_seed(0)
    n, h, w, c = shape
    stride, dilation = options.get("stride", (1, 1)), options.get("dilation", (1, 1))
    top, left, bottom, right = options.setdefault("pads", (1, 1, 1, 1))
    height = output_size(h, kernel[0], stride[0], top, bottom, dilation[0])
    width = output_size(w, kernel[1], stride[1], left, right, dilation[1])
    # All below zero: a zero taken from the padding would be the maximum.
    x = -torch.rand(n, c, h, w).permute(0, 2, 3, 1) - 0.1 if strided else -torch.rand(shape) - 0.1
    x = x.to(dtype)
    weight = (torch.randn(c, cout) / math.sqrt(c)).to(dtype)
    bias = torch.randn(cout) if with_bias else None
    if with_residual:
        options["residual"] = torch.randn(n, height, width, cout + 5).to(dtype)[..., 2 : 2 + cout]
    wide = torch.full((n, height, width, cout + 11), math.nan, dtype=dtype)
    out = wide[..., 8 : 8 + cout]
    pooled_pointwise.pooled_pointwise(x, weight, bias, out, kernel=kernel, tile=tile, **options)()
    expected = pooled_pointwise.reference(x, weight, bias, out, kernel=kernel, **options)
    error = (out.double() - expected).norm() / expected.norm()
    assert error < (2e-3 if dtype == torch.float16 else 1e-6 * math.sqrt(c))
    assert wide[..., :8].isnan().all() and wide[..., 8 + cout :].isnan().all(), "wrote outside its channel slice"


@pytest.mark.parametrize("shape", [(1, 7, 9, 37), (3, 13, 5, 3), (2, 1, 1, 64), (1, 4, 33, 16)])
@pytest.mark.parametrize("tile", [None, SMALL, Tile(16, 64, 16)])
def test_odd_sizes(shape: tuple[int, int, int, int], tile: Tile | None) -> None:
    run(shape, 41, tile=tile, act=RELU)


@pytest.mark.parametrize("kernel", [(2, 2), (5, 5), (1, 3), (2, 11)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (2, 1)])
def test_kernels_and_strides(kernel: tuple[int, int], stride: tuple[int, int]) -> None:
    pads = (kernel[0] - 1, kernel[1] // 2, 0, kernel[1] - 1)  # no window without a pixel
    run((2, 9, 11, 20), 24, kernel, stride=stride, pads=pads, tile=SMALL, with_bias=False)


def test_dilation() -> None:
    run((3, 9, 11, 20), 24, dilation=(2, 3), pads=(2, 3, 2, 3), tile=SMALL)


@pytest.mark.parametrize("height", [3, 8, 13])
def test_strips_of_a_wide_map(height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooled_pointwise, "strip_rows", lambda *_: 4)  # as on a GPU
    run((2, height, 21, 5), 7, tile=SMALL, stride=(2, 2), pads=(0, 0, 1, 1), with_residual=True)


@pytest.mark.parametrize("act", [RELU, CLIP, Act("silu")])
def test_padding_is_below_everything_after_the_prologue(act: Act) -> None:
    run((1, 5, 7, 19), 21, pre_act=act, pads=(2, 1, 0, 2), tile=Tile(64, 32, 16))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("act", [IDENTITY, Act("silu")])
@pytest.mark.parametrize("with_residual", [False, True])
def test_epilogue(dtype: torch.dtype, act: Act, with_residual: bool) -> None:
    run((1, 7, 9, 24), 21, dtype=dtype, act=act, with_residual=with_residual, post=RELU)


def test_an_input_of_any_strides() -> None:
    run((3, 9, 7, 20), 16, strided=True, stride=(2, 2), pads=(0, 0, 1, 1), tile=SMALL)


def test_an_input_wider_than_the_weight_s_type() -> None:
    x, weight = torch.randn(1, 6, 6, 20), torch.randn(20, 9).half()
    out = torch.zeros(1, 4, 4, 9).half()
    pooled_pointwise.pooled_pointwise(x, weight, None, out, kernel=(3, 3))()
    expected = pooled_pointwise.reference(x, weight, None, out, kernel=(3, 3))
    assert (out.double() - expected).norm() < 2e-3 * expected.norm()


@pytest.mark.parametrize("pre_act", [IDENTITY, RELU])
def test_nan_stays_nan_and_stays_in_its_window(pre_act: Act) -> None:
    x = torch.ones(1, 5, 5, 16)
    x[0, 0, 0, 3] = math.nan
    out = torch.zeros(1, 5, 5, 4)
    window: dict[str, Any] = {"kernel": (3, 3), "pads": (1, 1, 1, 1)}
    pooled_pointwise.pooled_pointwise(x, torch.ones(16, 4), None, out, pre_act=pre_act, act=RELU, **window)()
    assert out[0, :2, :2].isnan().all()
    assert (out[0, 2:] == 16).all() and (out[0, :, 2:] == 16).all()


def test_what_lies_around_the_image_is_not_read() -> None:
    around = torch.full((1, 9, 9, 24), math.nan)
    x, weight = around[:, 2:7, 2:7, 4:17], torch.randn(13, 5)
    x.normal_()
    out = torch.zeros(1, 5, 5, 5)
    pooled_pointwise.pooled_pointwise(x, weight, None, out, kernel=(3, 3), pads=(1, 1, 1, 1), tile=SMALL)()
    expected = pooled_pointwise.reference(x, weight, None, out, kernel=(3, 3), pads=(1, 1, 1, 1))
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)


def test_reference_is_an_onnx_pool_and_convolution() -> None:
    x, weight, bias = torch.randn(2, 6, 7, 9).double(), torch.randn(5, 9, 1, 1).double(), torch.randn(5)
    y = pooled_pointwise.reference(
        x, pointwise.pack(weight), bias, x, kernel=(3, 2), stride=(2, 1), pads=(1, 0, 1, 0), act=RELU
    )
    p = F.max_pool2d(x.permute(0, 3, 1, 2), (3, 2), (2, 1), (1, 0))
    torch.testing.assert_close(y, F.conv2d(p, weight, bias.double()).relu().permute(0, 2, 3, 1))


def test_bad_arguments_are_refused() -> None:
    x, weight, out = torch.zeros(1, 6, 6, 8), torch.zeros(8, 4), torch.zeros(1, 4, 4, 4)

    def refuses(message: str, *args: Any, **options: Any) -> None:
        with pytest.raises(ValueError, match=message):
            pooled_pointwise.pooled_pointwise(*args, kernel=(3, 3), **options)

    refuses("out has shape", x, weight, None, out, pads=(1, 1, 1, 1))
    refuses("out needs", x, weight, None, torch.zeros(1, 4, 4, 4).permute(0, 3, 1, 2))
    refuses("expected 2-D", x, torch.zeros(8, 4, 1, 1), None, out)
    refuses("weight has shape", x, torch.zeros(7, 4), None, out)
    refuses("bias is", x, weight, torch.zeros(4).half(), out)
    refuses("residual has shape", x, weight, None, out, residual=torch.zeros(1, 4, 4, 5))
