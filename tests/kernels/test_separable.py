"""The separable kernel in the interpreter against float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from optgraph.ir.values import IDENTITY, RELU, Act
from optgraph.kernels import pointwise, separable
from optgraph.kernels.frame.choice import Tile
from optgraph.kernels.frame.operands import output_size

SMALL = Tile(32, 32, 32)
CLIP = Act("clip", 0.1, 0.5)  # of zero it is not zero: padding must be masked after it


def run(
    shape: tuple[int, int, int, int],
    cout: int,
    kernel: tuple[int, int] = (3, 3),
    *,
    dtype: torch.dtype = torch.float32,
    nchw: bool = False,
    tile: Tile | None = None,
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
    length = kernel[0] * kernel[1] * c
    x = (torch.randn(n, c, h, w).permute(0, 2, 3, 1) if nchw else torch.randn(shape)).to(dtype)
    depthwise = separable.pack_depthwise(torch.randn(c, 1, *kernel) / 3).to(dtype)
    weight = (torch.randn(c, cout) / math.sqrt(c)).to(dtype)
    biases = (torch.randn(c), torch.randn(cout)) if with_bias else (None, None)
    if with_residual:
        options["residual"] = torch.randn(n, height, width, cout + 5).to(dtype)[..., 2 : 2 + cout]
    wide = torch.full((n, height, width, cout + 11), math.nan, dtype=dtype)
    out = wide[..., 8 : 8 + cout]
    separable.separable(x, depthwise, biases[0], weight, biases[1], out, tile=tile, **options)()
    expected = separable.reference(x, depthwise, biases[0], weight, biases[1], out, **options)
    error = (out.double() - expected).norm() / expected.norm()
    assert error < (2e-3 if dtype == torch.float16 else 1e-6 * math.sqrt(length))
    assert wide[..., :8].isnan().all() and wide[..., 8 + cout :].isnan().all(), "wrote outside its channel slice"


@pytest.mark.parametrize("shape", [(1, 7, 9, 37), (3, 13, 5, 3), (2, 1, 1, 64), (1, 4, 33, 16)])
@pytest.mark.parametrize("tile", [None, SMALL, Tile(16, 64, 16)])
def test_odd_sizes(shape: tuple[int, int, int, int], tile: Tile | None) -> None:
    run(shape, 41, tile=tile, mid=RELU, act=RELU)


@pytest.mark.parametrize("kernel", [(5, 5), (1, 3), (2, 4)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (2, 1)])
def test_kernels_and_strides(kernel: tuple[int, int], stride: tuple[int, int]) -> None:
    run((2, 9, 11, 20), 24, kernel, stride=stride, pads=(0, 1, 2, 3), tile=SMALL, with_bias=False)


def test_dilation() -> None:
    run((2, 9, 11, 20), 24, dilation=(2, 3), pads=(2, 3, 2, 3), tile=SMALL)


@pytest.mark.parametrize("accumulators", [2, 3])
@pytest.mark.parametrize("cout", [9, 41, 48, 73])
def test_accumulators_side_by_side(accumulators: int, cout: int) -> None:
    run((2, 5, 7, 20), cout, tile=Tile(32, 16, 32, accumulators=accumulators), with_residual=True, act=RELU)


@pytest.mark.parametrize("height", [3, 8, 13])
def test_strips_of_a_wide_map(height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(separable, "strip_rows", lambda *_: 4)  # as on a GPU
    run((2, height, 21, 5), 7, tile=SMALL, with_residual=True)


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("act", [IDENTITY, RELU, CLIP])
def test_padding_is_zero_after_the_prologue(scale: bool, shift: bool, act: Act) -> None:
    pre_scale, pre_shift = torch.randn(19) if scale else None, torch.randn(19) if shift else None
    run((1, 5, 7, 19), 21, pre_scale=pre_scale, pre_shift=pre_shift, pre_act=act, tile=Tile(64, 32, 16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("mid", [IDENTITY, Act("clip", 0.0, 6.0)])
@pytest.mark.parametrize("act", [IDENTITY, Act("silu")])
@pytest.mark.parametrize("with_residual", [False, True])
def test_epilogue(dtype: torch.dtype, mid: Act, act: Act, with_residual: bool) -> None:
    run((1, 7, 9, 24), 21, dtype=dtype, mid=mid, act=act, with_residual=with_residual, post=RELU)


def test_nchw_input() -> None:
    run((3, 9, 7, 20), 16, nchw=True, stride=(2, 2), pads=(0, 0, 1, 1), tile=SMALL)


def test_nan_stays_nan_and_stays_in_its_window() -> None:
    x = torch.ones(1, 5, 5, 16)
    x[0, 0, 0, 3] = math.nan
    out = torch.zeros(1, 5, 5, 4)
    weights = torch.ones(3, 3, 16), None, torch.ones(16, 4), None
    separable.separable(x, *weights, out, pads=(1, 1, 1, 1), pre_act=RELU, mid=RELU, act=RELU)()
    assert out[0, :2, :2].isnan().all()
    assert not out[0, 2:].isnan().any() and not out[0, :, 2:].isnan().any()


def test_packs_and_reference_are_two_onnx_convolutions() -> None:
    x, depthwise = torch.randn(2, 6, 7, 9).double(), torch.randn(9, 1, 3, 2).double()
    weight, bias = torch.randn(5, 9, 1, 1).double(), torch.randn(9)
    packed = separable.pack_depthwise(depthwise), bias, pointwise.pack(weight), None
    y = separable.reference(x, *packed, x, stride=(2, 1), pads=(1, 0, 1, 0), mid=RELU)
    d = F.conv2d(x.permute(0, 3, 1, 2), depthwise, bias.double(), (2, 1), (1, 0), 1, 9).relu()
    torch.testing.assert_close(y, F.conv2d(d, weight).permute(0, 2, 3, 1))


def test_bad_arguments_are_refused() -> None:
    x, depthwise, weight, out = (
        torch.zeros(1, 6, 6, 8),
        torch.zeros(3, 3, 8),
        torch.zeros(8, 4),
        torch.zeros(1, 4, 4, 4),
    )

    def refuses(message: str, *args: Any, **options: Any) -> None:
        with pytest.raises(ValueError, match=message):
            separable.separable(*args, **options)

    refuses("out has shape", x, depthwise, None, weight, None, out, pads=(1, 1, 1, 1))
    refuses("out needs", x, depthwise, None, weight, None, torch.zeros(1, 4, 4, 4).permute(0, 3, 1, 2))
    refuses("depthwise has shape", x, torch.zeros(3, 3, 7), None, weight, None, out)
    refuses("expected 3-D and 2-D", x, torch.zeros(8, 1, 3, 3), None, weight, None, out)
    refuses("weight has shape", x, depthwise, None, torch.zeros(7, 4), None, out)
    refuses("depthwise_bias has shape", x, depthwise, torch.zeros(4), weight, None, out)
    refuses("bias is", x, depthwise, None, weight, torch.zeros(4).half(), out)
    refuses("residual has shape", x, depthwise, None, weight, None, out, residual=torch.zeros(1, 4, 4, 5))
