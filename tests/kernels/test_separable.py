"""The separable kernel beside its samples: strips as on a GPU, NaN, packing, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from optgraph.base.devices import INTERPRET, SM_80, SM_86, SM_90, Target
from optgraph.ir.values import RELU, Act, Window
from optgraph.kernels import pointwise
from optgraph.kernels.frame import specialised
from optgraph.kernels.frame.ends import Epilogue, Prologue
from optgraph.kernels.frame.launch import Launch, targeting
from optgraph.kernels.frame.sample import image
from optgraph.kernels.frame.specialised import Run
from optgraph.kernels.frame.tile import PLANNED_BATCHES, Tile, cdiv
from optgraph.kernels.separable import SEPARABLE, pack_depthwise, pays, reference, sample, separable
from optgraph.tune.layers import Layer
from tests.support.kernel_checks import check

BARE = Window((3, 3))
AROUND = Window((3, 3), pads=(1, 1, 1, 1))


@pytest.mark.parametrize("height", [3, 8, 13])
def test_strips_of_a_wide_map(height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optgraph.kernels.frame.rows.strip_rows", lambda *_: 4)  # as on a GPU
    after = Epilogue(True, residual=True)
    check(SEPARABLE, sample((2, height, 21, 5), 7, AROUND, after=after, tile=Tile(32, 32, 32)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_nan_stays_nan_and_stays_in_its_window(dtype: torch.dtype) -> None:
    x = torch.ones(1, 5, 5, 16, dtype=dtype)
    x[0, 0, 0, 3] = math.nan
    out = torch.zeros(1, 5, 5, 4, dtype=dtype)
    weights = torch.ones(3, 3, 16, dtype=dtype), torch.ones(16, 4, dtype=dtype)
    before, after = Prologue(act=RELU), Epilogue(act=RELU)
    separable(x, *weights, out, window=AROUND, mid=RELU, before=before, after=after)()
    assert out[0, :2, :2].isnan().all()
    assert not out[0, 2:].isnan().any() and not out[0, :, 2:].isnan().any()


def test_only_plain_fp16_is_added_in_fp16() -> None:
    def half(dtype: torch.dtype, before: Prologue = Prologue(), weights: torch.dtype | None = None) -> bool:
        x, out = torch.zeros(1, 5, 5, 8, dtype=dtype), torch.zeros(1, 5, 5, 8, dtype=dtype)
        depthwise, weight = torch.zeros(3, 3, 8, dtype=weights or dtype), torch.zeros(8, 8, dtype=weights or dtype)
        return bool(separable(x, depthwise, weight, out, window=AROUND, before=before).constants["HALF"])

    assert half(torch.float16) and half(torch.float16, Prologue(act=RELU))
    assert not half(torch.float16, Prologue(act=Act("sigmoid")))
    assert not half(torch.float16, Prologue(scale=torch.ones(8))) and not half(torch.float16, weights=torch.float32)
    assert not half(torch.bfloat16) and not half(torch.float32)


SHAPES: dict[str, Any] = {"window": AROUND, "affine": False, "residual": False, "dtype": torch.float16}


@pytest.mark.parametrize("batch", PLANNED_BATCHES)
def test_one_launch_pays_on_wide_maps_and_not_for_many_channels(batch: int) -> None:
    assert pays((batch, 147, 147, 64), 128, target=SM_80, **SHAPES)
    assert not pays((batch, 19, 19, 728), 728, target=SM_80, **SHAPES)


@pytest.mark.parametrize("batch", [8, 64, 128])
def test_on_hopper_one_launch_pays_in_the_entry_flow_of_xception(batch: int) -> None:
    for side, channels, columns in ((147, 64, 128), (147, 128, 128), (74, 128, 256), (74, 256, 256)):
        assert pays((batch, side, side, channels), columns, target=SM_90, **SHAPES)
    for side, channels, columns in ((37, 728, 728), (19, 728, 728), (10, 1024, 1536)):
        assert not pays((batch, side, side, channels), columns, target=SM_90, **SHAPES)


def test_where_nothing_is_known_one_launch_stays() -> None:
    known: dict[str, Any] = {**SHAPES, "target": SM_90}
    assert pays((1, 19, 19, 728), 728, **{**known, "dtype": torch.float32})
    assert pays((1, 19, 19, 727), 728, **known) and pays((1, 19, 19, 728), 727, **known)


@pytest.mark.parametrize("target", [INTERPRET, Target((10, 0))])
def test_a_target_without_rates_decides_as_an_h100(target: Target) -> None:
    sizes = [(side, channels) for side in (19, 73, 147) for channels in (16, 64, 728)]
    found, h100 = (
        [pays((1, side, side, channels), channels, target=to, **SHAPES) for side, channels in sizes]
        for to in (target, SM_90)
    )
    assert found == h100 and len(set(found)) == 2


def dry(shape: tuple[int, int, int, int], target: Target = SM_90, dtype: str = "fp16", **arguments: Any) -> Launch:
    """A launch that makes as many channels as it gets, on memory that does not exist."""
    return Layer(SEPARABLE, sample(shape, shape[3], AROUND, **arguments).typed(dtype)).dry(target)


ENTRY = (64, 74, 74, 128)


def test_warps_are_specialised_on_hopper_where_pixels_are_enough() -> None:
    for dtype in ("fp16", "bf16"):
        launch = dry(ENTRY, dtype=dtype, after=Epilogue(True, RELU, residual=True))
        assert launch.tile.producers and launch.code.name == "separable_specialised"
        assert launch.grid == (132,)
        with targeting(SM_90):
            assert launch.otherwise
            plain = launch.otherwise()
        assert plain.code.name == "separable" and plain.arguments["x"].shape == ENTRY and not plain.otherwise
    assert not dry((1, 19, 19, 728)).tile.producers
    for target in (SM_80, SM_86, Target((10, 0)), INTERPRET):
        assert dry(ENTRY, target).code.name == "separable"


def test_a_program_for_each_block_of_pixels_where_these_are_few() -> None:
    tile = Tile(128, 128, 64, 8, producers=8)
    assert dry((1, 9, 20, 64), tile=tile).grid == (2,) and dry((1, 150, 150, 64), tile=tile).grid == (132,)


@pytest.mark.parametrize(
    ("shape", "arguments"),
    [
        (ENTRY, {"dtype": "fp32"}),
        ((64, 74, 74, 124), {}),
        ((64, 74, 74, 2048), {}),
        (ENTRY, {"before": Prologue(True, True, RELU)}),
        (ENTRY, {"x": image(*ENTRY, planes=True)}),
        (ENTRY, {"x": image(*ENTRY, dtype="float32")}),
    ],
)
def test_other_launches_stay_plain(shape: tuple[int, int, int, int], arguments: dict[str, Any]) -> None:
    assert dry(shape, **arguments).code.name == "separable"


@pytest.mark.parametrize(
    "window",
    [
        Window((3, 7), pads=(1, 3, 1, 3)),
        Window((7, 3), pads=(3, 1, 3, 1)),
        BARE,
        Window((3, 3), (2, 2), (1, 1, 1, 1)),
        Window((3, 3), (1, 1), (2, 2, 2, 2), (2, 2)),
    ],
)
def test_windows_that_do_not_follow_a_run_of_pixels_stay_plain(window: Window) -> None:
    launch = Layer(SEPARABLE, sample(ENTRY, 128, window).typed("fp16")).dry(SM_90)
    assert not launch.tile.producers
    with pytest.raises(ValueError, match="specialised warps need sm_90"):
        Layer(SEPARABLE, sample(ENTRY, 128, window, tile=Tile(128, 128, 64, 8, producers=8)).typed("fp16")).dry(SM_90)


def test_a_narrow_map_stays_plain() -> None:
    assert Run.of(AROUND, (64, 8, 8), 64, 64) and not Run.of(AROUND, (64, 8, 7), 64, 64)


def test_pixels_that_are_not_side_by_side_stay_plain() -> None:
    x, depthwise, weight = (torch.zeros(size).half() for size in ((2, 90, 90, 64), (3, 3, 64), (64, 64)))
    tile = Tile(128, 128, 64, 8, producers=8)
    with targeting(SM_90):
        out = torch.zeros(2, 80, 90, 64).half()
        assert separable(x[:, :80], depthwise, weight, out, window=AROUND).code.name == "separable"
        with pytest.raises(ValueError, match="specialised warps need sm_90"):
            separable(x[:, :80], depthwise, weight, out, window=AROUND, tile=tile)
        beside = torch.zeros(2, 90, 90, 80).half()[..., 8:72]  # but those of a slice are
        launch = separable(beside, depthwise, weight, x.clone(), window=AROUND, tile=tile)
        assert launch.code.name == "separable_specialised" and launch.arguments["x"].strides == (80, 1)


def test_a_specialised_tile_is_refused_where_it_cannot_run() -> None:
    tile = Tile(128, 128, 64, 8, producers=8)
    for shape, target, dtype in (
        ((1, 9, 9, 72), SM_80, "fp16"),
        ((1, 9, 9, 72), SM_90, "fp32"),
        ((1, 9, 9, 70), SM_90, "fp16"),
    ):
        with pytest.raises(ValueError, match="specialised warps need sm_90"):
            dry(shape, target, dtype, tile=tile)


@pytest.mark.parametrize("width", [19, 37, 74, 147, 299])
@pytest.mark.parametrize("channels", [8, 128, 256, 728, 1536])
def test_a_specialised_tile_fits_into_shared_memory(channels: int, width: int) -> None:
    run = Run(100_000, width, channels, 128, (3, 3))
    for tile in (Tile(128, 128, 64, 8, producers=8), Tile(64, 128, 64, 4, producers=4)):
        kept = tile.block_m * cdiv(channels, 64) * 64 * 2
        least = kept + 2 * 128 * (tile.block_m + 2 * width + 2) + 2 * 64 * 128 * 2
        if tile in specialised.tiles(run, SM_90):
            found = specialised.constants(tile, run)
            assert found["HALO"] >= tile.block_m + 2 * width + 2 and found["RUN"] == 4
            assert least <= specialised.shared_bytes(tile, run) <= SM_90.device.block_shared
        else:
            assert least > SM_90.device.block_shared - (16 << 10)


def test_packs_and_reference_are_two_onnx_convolutions() -> None:
    x, depthwise = torch.randn(2, 6, 7, 9).double(), torch.randn(9, 1, 3, 2).double()
    weight, bias = torch.randn(5, 9, 1, 1).double(), torch.randn(9)
    packed, window = (pack_depthwise(depthwise), pointwise.pack(weight)), Window((3, 2), (2, 1), (1, 0, 1, 0))
    y = reference(x, *packed, x, window=window, depthwise_bias=bias, mid=RELU)
    d = F.conv2d(x.permute(0, 3, 1, 2), depthwise, bias.double(), (2, 1), (1, 0), 1, 9).relu()
    torch.testing.assert_close(y, F.conv2d(d, weight).permute(0, 2, 3, 1))


def test_bad_arguments_are_refused() -> None:
    x, out = torch.zeros(1, 6, 6, 8), torch.zeros(1, 4, 4, 4)
    depthwise, weight = torch.zeros(3, 3, 8), torch.zeros(8, 4)

    def refuses(message: str, *args: Any, window: Window = BARE, **options: Any) -> None:
        with pytest.raises(ValueError, match=message):
            separable(*args, window=window, **options)

    refuses("out has shape", x, depthwise, weight, out, window=AROUND)
    refuses("out needs", x, depthwise, weight, torch.zeros(1, 4, 4, 4).permute(0, 3, 1, 2))
    refuses("depthwise has shape", x, torch.zeros(3, 3, 7), weight, out)
    refuses("expected 3-D and 2-D", x, torch.zeros(8, 1, 3, 3), weight, out)
    refuses("weight has shape", x, depthwise, torch.zeros(7, 4), out)
    refuses("depthwise_bias has shape", x, depthwise, weight, out, depthwise_bias=torch.zeros(4))
    refuses("bias is", x, depthwise, weight, out, after=Epilogue(torch.zeros(4).half()))
    refuses("residual has shape", x, depthwise, weight, out, after=Epilogue(residual=torch.zeros(1, 4, 4, 5)))
