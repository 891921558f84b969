"""The conv2d kernel in the interpreter against float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from optgraph.ir.values import IDENTITY, RELU, Act
from optgraph.kernels import conv2d
from optgraph.kernels.frame.choice import Tile
from optgraph.kernels.frame.operands import output_size

SMALL = Tile(64, 32, 32)
CLIP = Act("clip", 0.1, 0.5)  # of zero it is not zero: padding must be masked after it


def run(
    shape: tuple[int, int, int, int],
    cout: int,
    kernel: tuple[int, int],
    *,
    dtype: torch.dtype = torch.float32,
    nchw: bool = False,
    tile: Tile | None = None,
    with_residual: bool = False,
    **options: Any,
) -> None:
    torch.manual_seed(0)
    n, h, w, cin = shape
    groups, stride = options.get("groups", 1), options.get("stride", (1, 1))
    top, left, bottom, right = options.get("pads", (0, 0, 0, 0))
    dilation = options.get("dilation", (1, 1))
    height = output_size(h, kernel[0], stride[0], top, bottom, dilation[0])
    width = output_size(w, kernel[1], stride[1], left, right, dilation[1])
    length = kernel[0] * kernel[1] * cin // groups
    x = (torch.randn(n, cin, h, w).permute(0, 2, 3, 1) if nchw else torch.randn(shape)).to(dtype)
    weight = conv2d.pack(torch.randn(cout, cin // groups, *kernel) / math.sqrt(length), groups).to(dtype)
    if with_residual:
        options["residual"] = torch.randn(n, height, width, cout + 5).to(dtype)[..., 2 : 2 + cout]
    wide = torch.full((n, height, width, cout + 11), math.nan, dtype=dtype)
    out = wide[..., 8 : 8 + cout]
    conv2d.conv2d(x, weight, torch.linspace(-1, 1, cout), out, tile=tile, **options)()
    expected = conv2d.reference(x, weight, torch.linspace(-1, 1, cout), out, **options)
    error = (out.double() - expected).norm() / expected.norm()
    assert error < (2e-3 if dtype == torch.float16 else 1e-6 * math.sqrt(length))
    assert wide[..., :8].isnan().all() and wide[..., 8 + cout :].isnan().all(), "wrote outside its channel slice"


@pytest.mark.parametrize("kernel", [(3, 3), (1, 7), (7, 1), (2, 5), (1, 1)])
@pytest.mark.parametrize("tile", [None, SMALL])
def test_kernels(kernel: tuple[int, int], tile: Tile | None) -> None:
    kh, kw = kernel
    run((3, 7, 9, 37), 40, kernel, pads=(kh // 2, kw // 2, kh // 2, kw // 2), tile=tile, act=RELU)


@pytest.mark.parametrize("channels", [1, 3, 5, 15, 16, 17])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2)])
def test_few_channels(channels: int, stride: tuple[int, int]) -> None:
    run((2, 13, 5, channels), 21, (3, 3), stride=stride, pads=(1, 1, 1, 1), tile=Tile(32, 32, 16))


@pytest.mark.parametrize("channels", [3, 20])
@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (0, 1, 2, 3), (2, 0, 0, 1)])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 3)])
def test_pads_strides_and_dilations(channels: int, pads: tuple[int, int, int, int], dilation: tuple[int, int]) -> None:
    run((2, 9, 11, channels), 5, (3, 3), stride=(2, 1), pads=pads, dilation=dilation, tile=SMALL)


@pytest.mark.parametrize(("groups", "channels", "cout"), [(2, 40, 60), (5, 15, 25), (7, 7, 7)])
def test_groups(groups: int, channels: int, cout: int) -> None:
    pre = {"pre_scale": torch.rand(channels), "pre_shift": torch.rand(channels), "pre_act": RELU}
    run((2, 7, 5, channels), cout, (3, 3), groups=groups, pads=(1, 1, 1, 1), tile=SMALL, with_residual=True, **pre)


@pytest.mark.parametrize("channels", [3, 19])
@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("act", [IDENTITY, RELU, CLIP])
def test_padding_is_zero_after_the_prologue(channels: int, scale: bool, shift: bool, act: Act) -> None:
    pre_scale, pre_shift = torch.randn(channels) if scale else None, torch.randn(channels) if shift else None
    pre = {"pre_scale": pre_scale, "pre_shift": pre_shift, "pre_act": act}
    run((1, 5, 7, channels), 21, (3, 3), pads=(1, 1, 1, 1), **pre)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("act", [IDENTITY, RELU, Act("hard_swish")])
@pytest.mark.parametrize("with_residual", [False, True])
def test_epilogue(dtype: torch.dtype, act: Act, with_residual: bool) -> None:
    run((1, 7, 9, 24), 21, (3, 3), pads=(1, 1, 1, 1), dtype=dtype, act=act, with_residual=with_residual, post=RELU)


BOXES = [(1, 32, 1), (2, 16, 1), (1, 4, 8), (2, 4, 4)]


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize(
    ("kernel", "pads"),
    [
        ((3, 3), (1, 1, 1, 1)),
        ((3, 3), (0, 0, 0, 0)),
        ((2, 5), (2, 1, 0, 3)),
        ((1, 7), (0, 3, 0, 3)),  # images and rows merged
        ((1, 3), (1, 1, 1, 1)),  # not: padding parts the rows of two images
        ((7, 1), (3, 0, 3, 0)),  # rows and columns merged
        ((3, 1), (0, 0, 0, 0)),
        ((3, 1), (1, 2, 1, 0)),
    ],
)
def test_boxes(kernel: tuple[int, int], pads: tuple[int, int, int, int], box: tuple[int, int, int]) -> None:
    run((2, 5, 6, 24), 24, kernel, pads=pads, tile=Tile(32, 32, 32, box=box), act=RELU)


def test_boxes_on_a_channel_slice_with_a_residual() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 7, 9, 64).half()[..., 8:48]
    weight = conv2d.pack(torch.randn(24, 40, 3, 3) / 19, 1).half()
    out, residual = torch.full((2, 7, 9, 24), math.nan).half(), torch.randn(2, 7, 9, 24).half()
    options: dict[str, Any] = {"pads": (1, 1, 1, 1), "residual": residual, "post": RELU}
    conv2d.conv2d(x, weight, None, out, tile=Tile(64, 32, 64, box=(1, 8, 8)), **options)()
    expected = conv2d.reference(x, weight, None, out, **options)
    assert (out.double() - expected).norm() / expected.norm() < 2e-3


@pytest.mark.parametrize("tile", [Tile(16, 16, 16, splits=4), Tile(16, 16, 16, box=(1, 4, 4), splits=8)])
def test_split_depth(tile: Tile) -> None:
    run((1, 5, 7, 24), 40, (3, 3), pads=(1, 1, 1, 1), tile=tile, act=RELU, with_residual=True)


@pytest.mark.parametrize("channels", [3, 40])
def test_split_depth_of_stems_and_groups(channels: int) -> None:
    groups = 2 if channels == 40 else 1
    run((1, 9, 7, channels), 24, (3, 3), stride=(2, 2), groups=groups, tile=Tile(16, 16, 16, splits=2))


@pytest.mark.parametrize(
    "options", [{"stride": (2, 2)}, {"dilation": (2, 2)}, {"pre_act": CLIP}, {"groups": 2}, {"nchw": True}]
)
def test_boxes_are_refused_where_they_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a tile with a box"):
        run((1, 9, 9, 32), 32, (3, 3), tile=Tile(16, 16, 16, box=(1, 4, 4)), **options)


@pytest.mark.parametrize("channels", [3, 20])
def test_nchw_input(channels: int) -> None:
    run((3, 9, 7, channels), 16, (3, 3), nchw=True, stride=(2, 2), pads=(0, 0, 1, 1), tile=SMALL)


def test_many_tiles_are_each_done_once() -> None:
    run((3, 13, 11, 16), 40, (1, 2), tile=Tile(16, 16, 16))


def test_float32_input_of_a_half_precision_network() -> None:
    x = torch.randn(1, 3, 9, 9).permute(0, 2, 3, 1)
    weight = conv2d.pack(torch.randn(8, 3, 3, 3), 1).half()
    out = torch.full((1, 4, 4, 8), math.nan).half()
    conv2d.conv2d(x, weight, None, out, stride=(2, 2))()
    expected = conv2d.reference(x, weight, None, out, stride=(2, 2))
    assert (out - expected).norm() / expected.norm() < 2e-3


def test_nan_stays_nan_and_stays_in_its_window() -> None:
    x = torch.ones(1, 5, 5, 16)
    x[0, 0, 0, 3] = math.nan
    out = torch.zeros(1, 5, 5, 4)
    conv2d.conv2d(x, torch.ones(1, 3, 3, 16, 4), None, out, pads=(1, 1, 1, 1), act=RELU)()
    assert out[0, :2, :2].isnan().all()
    assert not out[0, 2:].isnan().any() and not out[0, :, 2:].isnan().any()


@pytest.mark.parametrize("groups", [1, 3])
def test_pack_and_reference_are_an_onnx_convolution(groups: int) -> None:
    x, weight, bias = torch.randn(2, 6, 7, 9).double(), torch.randn(12, 9 // groups, 3, 2).double(), torch.randn(12)
    y = conv2d.reference(x, conv2d.pack(weight, groups), bias, x, groups=groups, stride=(2, 1), pads=(1, 0, 1, 0))
    convolved = F.conv2d(x.permute(0, 3, 1, 2), weight, bias.double(), (2, 1), (1, 0), 1, groups)
    torch.testing.assert_close(y, convolved.permute(0, 2, 3, 1))


def test_bad_arguments_are_refused() -> None:
    x, weight, bias, out = torch.zeros(1, 6, 6, 8), torch.zeros(1, 3, 3, 8, 4), torch.zeros(4), torch.zeros(1, 4, 4, 4)

    def refuses(message: str, *args: Any, **options: Any) -> None:
        with pytest.raises(ValueError, match=message):
            conv2d.conv2d(*args, **options)

    refuses("out has shape", x, weight, bias, out, pads=(1, 1, 1, 1))
    refuses("out needs", x, weight, bias, torch.zeros(1, 4, 4, 4).permute(0, 3, 1, 2))
    refuses("x has shape", x[..., :7], weight, bias, out)
    refuses("weight has shape", x, weight[0], bias, out)
    refuses("weight has shape", x, weight, bias, out, groups=2)
    refuses("not contiguous", x, weight.transpose(1, 2), bias, out)
    refuses("bias has shape", x, weight, torch.zeros(5), out)
    refuses("residual has shape", x, weight, bias, out, residual=torch.zeros(1, 4, 4, 5))
