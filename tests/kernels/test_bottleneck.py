"""The bottleneck kernel beside its samples: rounding, NaN, packing, its tiles, and when it is worth a launch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from optgraph.base.devices import SM_90, Target
from optgraph.ir.values import RELU, Window
from optgraph.kernels import conv2d, pointwise
from optgraph.kernels.bottleneck import MAX_CHANNELS, bottleneck, bottleneck_tile, pays, pieces, reference
from optgraph.kernels.frame.ends import Epilogue, Prologue
from optgraph.kernels.frame.tile import MAX_NUMEL

BARE = Window((3, 3))
AROUND = Window((3, 3), pads=(1, 1, 1, 1))


def test_hidden_values_are_rounded_as_if_stored() -> None:
    x, one = torch.full((1, 1, 1, 16), 1.0).half(), torch.ones(1, 1).half()
    conv_weight = torch.full((1, 1, 1, 16, 1), 2.0**-4).half()
    conv_weight[0, 0, 0, 0] += 2.0**-11  # 1 + 2^-11, halfway between two halves
    out, biases = torch.zeros(1, 1, 1, 1), (torch.tensor([2.0**-13]), torch.tensor([-1.0]))
    bottleneck(x, conv_weight, one, out, window=Window((1, 1)), conv_bias=biases[0], after=Epilogue(biases[1]))()
    assert out.item() == 2.0**-10


def test_nan_stays_nan_and_stays_in_its_window() -> None:
    x, rest = torch.ones(1, 5, 5, 16), torch.ones(1, 5, 5, 16)
    x[0, 0, 0, 3] = math.nan
    rest[0, 4, 4, 0] = math.nan
    out = torch.zeros(1, 5, 5, 4)
    weights, before, after = (torch.ones(1, 3, 3, 16, 16), torch.ones(32, 4)), Prologue(act=RELU), Epilogue(act=RELU)
    bottleneck(x, *weights, out, window=AROUND, rest=rest, mid=RELU, before=before, after=after)()
    assert out[0, :2, :2].isnan().all() and out[0, 4, 4].isnan().all()
    assert out.isnan().sum() == 5 * 4


def test_packs_and_reference_are_onnx_convolutions_of_a_concat() -> None:
    x, other = torch.randn(2, 6, 7, 20).double(), torch.randn(2, 3, 7, 4).double()
    conv_w, w = torch.randn(9, 20, 3, 2).double(), torch.randn(5, 13, 1, 1).double()
    bias, window = torch.randn(9), Window((3, 2), (2, 1), (1, 0, 1, 1))
    packed = conv2d.pack(conv_w, groups=1), pointwise.pack(w), torch.zeros(2, 3, 7, 5)
    h = F.conv2d(F.pad(x.permute(0, 3, 1, 2), (0, 1, 1, 1)), conv_w, bias.double(), (2, 1)).relu()
    for rest_first in (False, True):
        z = (other.permute(0, 3, 1, 2), h) if rest_first else (h, other.permute(0, 3, 1, 2))
        expected = F.conv2d(torch.cat(z, 1), w).permute(0, 2, 3, 1)
        y = reference(x, *packed, window=window, conv_bias=bias, rest=other, rest_first=rest_first, mid=RELU)
        torch.testing.assert_close(y, expected)


def test_bad_arguments_are_refused() -> None:
    x, out = torch.zeros(1, 6, 6, 16), torch.zeros(1, 4, 4, 4)
    conv_weight, weight = torch.zeros(1, 3, 3, 16, 8), torch.zeros(8, 4)

    def refuses(message: str, *args: Any, window: Window = BARE, **options: Any) -> None:
        with pytest.raises(ValueError, match=message):
            bottleneck(*args, window=window, **options)

    refuses("out has shape", x, conv_weight, weight, out, window=AROUND)
    refuses("out needs", x, conv_weight, weight, torch.zeros(1, 4, 4, 4).permute(0, 3, 1, 2))
    refuses("x needs channel stride 1", torch.zeros(1, 16, 6, 6).permute(0, 2, 3, 1), conv_weight, weight, out)
    refuses("conv_weight has shape", x, torch.zeros(1, 3, 3, 7, 8), weight, out)
    refuses("expected 5-D and 2-D", x, torch.zeros(3, 3, 16, 8), weight, out)
    refuses("weight has shape", x, conv_weight, weight, out, rest=torch.zeros(1, 4, 4, 3))
    refuses("rest has shape", x, conv_weight, torch.zeros(11, 4), out, rest=torch.zeros(1, 5, 5, 3))
    refuses("conv_bias has shape", x, conv_weight, weight, out, conv_bias=torch.zeros(4))
    refuses("bias is", x, conv_weight, weight, out, after=Epilogue(torch.zeros(4).half()))
    refuses("residual has shape", x, conv_weight, weight, out, after=Epilogue(residual=torch.zeros(1, 4, 4, 5)))
    refuses("over 256", x, torch.zeros(1, 3, 3, 16, 300), torch.zeros(300, 4), out)


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
    tile = bottleneck_tile(m, 160, hidden, rest, 1088, itemsize, Target.parse(target))
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
    assert bottleneck_tile(64 * 289, 160, 192, 192, 1088, 2, SM_90).block_m == 64
    assert bottleneck_tile(64 * 3136, 64, 64, 0, 256, 2, SM_90).block_m == 128


def layer(
    batch: int, size: int, channels: int, window: Window, hidden: int, rest: int, columns: int, dtype=torch.float16
) -> bool:
    shape = batch, size, size, channels
    how = {"window": window, "affine": False, "residual": True, "dtype": dtype, "target": SM_90}
    return pays(shape, hidden, rest, columns, **how)


SQUARE, ROW_7, ROW_3 = AROUND, Window((1, 7), pads=(0, 3, 0, 3)), Window((1, 3), pads=(0, 1, 0, 1))
BLOCK_35 = (35, 48, SQUARE, 64, 64, 320)  # of Inception-ResNet-v2
BLOCK_17 = (17, 160, ROW_7, 192, 192, 1088)
BLOCK_8 = (8, 224, ROW_3, 256, 192, 2080)
RESNET_56, RESNET_28 = (56, 64, SQUARE, 64, 0, 256), (28, 128, SQUARE, 128, 0, 512)


@pytest.mark.parametrize("shape", [BLOCK_35, BLOCK_17, BLOCK_8, RESNET_56, RESNET_28])
def test_one_image_has_too_few_blocks_for_one_launch(shape: tuple[int, ...]) -> None:
    assert not layer(1, *shape)


@pytest.mark.parametrize("shape", [BLOCK_35, RESNET_56, RESNET_28])
def test_a_batch_of_wide_maps_pays(shape: tuple[int, ...]) -> None:
    assert layer(64, *shape)


def test_idle_sms_cost_more_than_the_bytes_saved() -> None:
    assert not layer(64, *BLOCK_8)  # 64 blocks for 132 SMs


def test_only_what_makes_a_fast_tile_pays() -> None:
    assert not layer(64, *BLOCK_35, dtype=torch.float32)
    assert not layer(64, 35, 44, SQUARE, 64, 64, 320)
