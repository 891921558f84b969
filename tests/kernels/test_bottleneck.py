"""The bottleneck kernel in the interpreter against float64, its tiles, and when it is worth a launch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from optgraph.kernels.frame.bottleneck_tiles import MAX_CHANNELS, bottleneck_tile, pays, pieces

from optgraph.ir.values import IDENTITY, RELU, Act
from optgraph.kernels import bottleneck, conv2d, pointwise
from optgraph.kernels.frame.choice import MAX_NUMEL, Tile
from optgraph.kernels.frame.operands import output_size
from tests.support.kernel_checks import DTYPES, check, poisoned, sliced

SMALL = Tile(32, 32, 32)
CLIP = Act("clip", 0.1, 0.5)  # of zero it is not zero: padding must be masked after it


def run(
    shape: tuple[int, int, int, int],
    hidden: int,
    columns: int,
    kernel: tuple[int, int] = (3, 3),
    *,
    rest: int = 0,
    dtype: torch.dtype = torch.float32,
    tile: Tile | None = SMALL,
    with_bias: bool = True,
    with_residual: bool = False,
    **options: Any,
) -> None:
    torch.manual_seed(0)
    n, h, w, c = shape
    stride, dilation = options.get("stride", (1, 1)), options.get("dilation", (1, 1))
    top, left, bottom, right = options.setdefault("pads", (kernel[0] // 2, kernel[1] // 2) * 2)
    height = output_size(h, kernel[0], stride[0], top, bottom, dilation[0])
    width = output_size(w, kernel[1], stride[1], left, right, dilation[1])
    length = kernel[0] * kernel[1] * c
    conv_weight = conv2d.pack(torch.randn(hidden, c, *kernel) / math.sqrt(length), groups=1).to(dtype)
    weight = pointwise.pack(torch.randn(columns, hidden + rest, 1, 1) / math.sqrt(hidden + rest)).to(dtype)
    biases = (torch.randn(hidden), torch.randn(columns)) if with_bias else (None, None)
    if rest:
        options["rest"] = sliced(n, height, width, rest, dtype=dtype)
    if with_residual:
        options["residual"] = sliced(n, height, width, columns, dtype=dtype)
    out = poisoned(n, height, width, columns, dtype=dtype)
    arguments = sliced(*shape, dtype=dtype), conv_weight, biases[0], weight, biases[1], out
    bottleneck.bottleneck(*arguments, tile=tile, **options)()
    check(out, bottleneck.reference(*arguments, **options), length + hidden + rest)


@pytest.mark.parametrize("shape", [(1, 7, 5, 37), (3, 5, 3, 20), (2, 1, 1, 64)])
@pytest.mark.parametrize("tile", [None, SMALL, Tile(16, 64, 16)])
def test_odd_sizes(shape: tuple[int, int, int, int], tile: Tile | None) -> None:
    run(shape, 41, 73, tile=tile, mid=RELU, act=RELU)


@pytest.mark.parametrize("kernel", [(3, 3), (1, 7), (7, 1), (2, 4)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 1)])
def test_kernels_and_strides(kernel: tuple[int, int], stride: tuple[int, int]) -> None:
    run((1, 7, 9, 20), 24, 33, kernel, rest=17, stride=stride, pads=(0, 1, 2, 3), with_bias=False)


def test_dilation_and_stride() -> None:
    run((2, 9, 11, 20), 24, 33, stride=(2, 2), dilation=(2, 3), pads=(2, 3, 2, 3))


@pytest.mark.parametrize("hidden, rest", [(48, 0), (48, 16), (64, 48), (7, 100), (192, 192), (256, 5)])
@pytest.mark.parametrize("rest_first", [False, True])
def test_rest_on_either_side(hidden: int, rest: int, rest_first: bool) -> None:
    run((1, 5, 7, 19), hidden, 70, rest=rest, rest_first=rest_first, mid=RELU)


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("act", [IDENTITY, RELU, CLIP])
def test_padding_is_zero_after_the_prologue(scale: bool, shift: bool, act: Act) -> None:
    pre_scale, pre_shift = torch.randn(19) if scale else None, torch.randn(19) if shift else None
    run((1, 5, 7, 19), 21, 30, pre_scale=pre_scale, pre_shift=pre_shift, pre_act=act, tile=Tile(64, 32, 16))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mid", [IDENTITY, Act("sigmoid")])  # a masked channel must not become sigmoid(0)
@pytest.mark.parametrize("act", [IDENTITY, Act("silu")])
@pytest.mark.parametrize("with_residual", [False, True])
def test_epilogue(dtype: torch.dtype, mid: Act, act: Act, with_residual: bool) -> None:
    run((1, 7, 9, 24), 37, 21, rest=20, dtype=dtype, mid=mid, act=act, with_residual=with_residual, post=RELU)


def test_hidden_values_are_rounded_as_if_stored() -> None:
    x, one = torch.full((1, 1, 1, 16), 1.0).half(), torch.ones(1, 1).half()
    conv_weight = torch.full((1, 1, 1, 16, 1), 2.0**-4).half()
    conv_weight[0, 0, 0, 0] += 2.0**-11  # 1 + 2^-11, halfway between two halves
    out = torch.zeros(1, 1, 1, 1)
    bottleneck.bottleneck(x, conv_weight, torch.tensor([2.0**-13]), one, torch.tensor([-1.0]), out)()
    assert out.item() == 2.0**-10


def test_nan_stays_nan_and_stays_in_its_window() -> None:
    x, rest = torch.ones(1, 5, 5, 16), torch.ones(1, 5, 5, 16)
    x[0, 0, 0, 3] = math.nan
    rest[0, 4, 4, 0] = math.nan
    out = torch.zeros(1, 5, 5, 4)
    weights = torch.ones(1, 3, 3, 16, 16), None, torch.ones(32, 4), None
    bottleneck.bottleneck(x, *weights, out, rest=rest, pads=(1, 1, 1, 1), pre_act=RELU, mid=RELU, act=RELU)()
    assert out[0, :2, :2].isnan().all() and out[0, 4, 4].isnan().all()
    assert out.isnan().sum() == 5 * 4


def test_packs_and_reference_are_onnx_convolutions_of_a_concat() -> None:
    x, other = torch.randn(2, 6, 7, 20).double(), torch.randn(2, 3, 7, 4).double()
    conv_w, w = torch.randn(9, 20, 3, 2).double(), torch.randn(5, 13, 1, 1).double()
    bias = torch.randn(9)
    packed = conv2d.pack(conv_w, groups=1), bias, pointwise.pack(w), None, torch.zeros(2, 3, 7, 5)
    options: dict[str, Any] = {"stride": (2, 1), "pads": (1, 0, 1, 1), "mid": RELU}
    h = F.conv2d(F.pad(x.permute(0, 3, 1, 2), (0, 1, 1, 1)), conv_w, bias.double(), (2, 1)).relu()
    for rest_first in (False, True):
        z = (other.permute(0, 3, 1, 2), h) if rest_first else (h, other.permute(0, 3, 1, 2))
        expected = F.conv2d(torch.cat(z, 1), w).permute(0, 2, 3, 1)
        y = bottleneck.reference(x, *packed, rest=other, rest_first=rest_first, **options)
        torch.testing.assert_close(y, expected)


def test_bad_arguments_are_refused() -> None:
    x, conv_weight, weight, out = (
        torch.zeros(1, 6, 6, 16),
        torch.zeros(1, 3, 3, 16, 8),
        torch.zeros(8, 4),
        torch.zeros(1, 4, 4, 4),
    )

    def refuses(message: str, *args: Any, **options: Any) -> None:
        with pytest.raises(ValueError, match=message):
            bottleneck.bottleneck(*args, **options)

    refuses("out has shape", x, conv_weight, None, weight, None, out, pads=(1, 1, 1, 1))
    refuses("out needs", x, conv_weight, None, weight, None, torch.zeros(1, 4, 4, 4).permute(0, 3, 1, 2))
    refuses(
        "x needs channel stride 1", torch.zeros(1, 16, 6, 6).permute(0, 2, 3, 1), conv_weight, None, weight, None, out
    )
    refuses("conv_weight has shape", x, torch.zeros(1, 3, 3, 7, 8), None, weight, None, out)
    refuses("expected 5-D and 2-D", x, torch.zeros(3, 3, 16, 8), None, weight, None, out)
    refuses("weight has shape", x, conv_weight, None, weight, None, out, rest=torch.zeros(1, 4, 4, 3))
    refuses("rest has shape", x, conv_weight, None, torch.zeros(11, 4), None, out, rest=torch.zeros(1, 5, 5, 3))
    refuses("conv_bias has shape", x, conv_weight, torch.zeros(4), weight, None, out)
    refuses("bias is", x, conv_weight, None, weight, torch.zeros(4).half(), out)
    refuses("residual has shape", x, conv_weight, None, weight, None, out, residual=torch.zeros(1, 4, 4, 5))
    refuses("over 256", x, torch.zeros(1, 3, 3, 16, 300), None, torch.zeros(300, 4), None, out)


# ---- tiles and profit


def test_pieces_cover_the_channels_with_less_waste_than_one_power_of_two() -> None:
    assert [pieces(c) for c in (1, 64, 192, 193, 256)] == [(16, 0), (64, 0), (128, 64), (256, 0), (256, 0)]
    for channels in range(1, MAX_CHANNELS + 1):
        first, second = pieces(channels)
        assert first + second >= channels and (second == 0 or first + second < max(16, 2 * channels))
        assert all(size == 0 or (size >= 16 and size & (size - 1) == 0) for size in (first, second))


@pytest.mark.parametrize("m", [1, 289, 64 * 289, 64 * 3136])
@pytest.mark.parametrize("hidden, rest", [(64, 64), (192, 192), (256, 192), (256, 256), (128, 0)])
@pytest.mark.parametrize("itemsize, target", [(2, "sm_80"), (2, "sm_86"), (2, "sm_90"), (4, "sm_90"), (4, "interpret")])
def test_tiles_are_valid(m: int, hidden: int, rest: int, itemsize: int, target: str) -> None:
    tile = bottleneck_tile(m, 160, hidden, rest, 1088, itemsize, target)
    sizes = (tile.block_m, tile.block_n, tile.block_k)
    assert all(size >= 16 and size & (size - 1) == 0 for size in sizes)
    widest = max(tile.block_n, tile.block_k, *pieces(hidden), *pieces(rest))
    assert tile.block_m * widest <= MAX_NUMEL
    if target != "interpret":
        shared = {"sm_80": 166_912, "sm_86": 101_376, "sm_90": 232_448}[target]
        weights = (hidden + rest) * tile.block_n * tile.num_stages  # of the loop over columns
        in_shared = rest * tile.block_m if target == "sm_90" else 0  # else in registers
        assert (weights + in_shared) * itemsize < shared


def test_blocks_are_as_the_busiest_sm_needs() -> None:
    # 289 blocks of 64 are 3 for the busiest of 132 SMs, 145 of 128 are 2, which is more.
    assert bottleneck_tile(64 * 289, 160, 192, 192, 1088, 2, "sm_90").block_m == 64
    assert bottleneck_tile(64 * 3136, 64, 64, 0, 256, 2, "sm_90").block_m == 128


def layer(
    batch: int, size: int, channels: int, taps: int, hidden: int, rest: int, columns: int, itemsize: int = 2
) -> bool:
    pixels = batch * size * size
    return pays(pixels, channels, hidden, rest, columns, taps=taps, read=channels, residual=True, itemsize=itemsize)


BLOCK_35 = (35, 48, 9, 64, 64, 320)  # of Inception-ResNet-v2
BLOCK_17 = (17, 160, 7, 192, 192, 1088)
BLOCK_8 = (8, 224, 3, 256, 192, 2080)
RESNET_56, RESNET_28 = (56, 64, 9, 64, 0, 256), (28, 128, 9, 128, 0, 512)


@pytest.mark.parametrize("shape", [BLOCK_35, BLOCK_17, BLOCK_8, RESNET_56, RESNET_28])
def test_one_image_has_too_few_blocks_for_one_launch(shape: tuple[int, ...]) -> None:
    assert not layer(1, *shape)


@pytest.mark.parametrize("shape", [BLOCK_35, RESNET_56, RESNET_28])
def test_a_batch_of_wide_maps_pays(shape: tuple[int, ...]) -> None:
    assert layer(64, *shape)


def test_idle_sms_cost_more_than_the_bytes_saved() -> None:
    assert not layer(64, *BLOCK_17)  # 289 blocks are 3 for some SMs and 2 for most
    assert layer(117, *BLOCK_17)  # 528 blocks are 4 for each
    assert not layer(64, *BLOCK_8)  # 64 blocks for 132 SMs


def test_only_what_makes_a_fast_tile_pays() -> None:
    assert not layer(64, *BLOCK_35, itemsize=4)
    assert not layer(64, 35, 44, 9, 64, 64, 320)


def test_every_sm_must_have_a_block() -> None:
    shape = {"channels": 64, "hidden": 64, "rest": 0, "columns": 256}
    cost: dict[str, Any] = {"taps": 9, "read": 64, "residual": True, "itemsize": 2}
    assert pays(132 * 64, **shape, **cost)
    assert not pays(131 * 64, **shape, **cost)
