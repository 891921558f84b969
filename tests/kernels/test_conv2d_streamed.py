"""The convolution whose blocks are all under way at once: where it is chosen, and where not. What it computes, the
emulator shows."""

from __future__ import annotations

from typing import Any

import pytest

from optgraph.base.devices import INTERPRET, SM_80, SM_90, Target
from optgraph.ir.values import RELU, Window
from optgraph.kernels import conv2d, pointwise
from optgraph.kernels.frame import streamed
from optgraph.kernels.frame.ends import Epilogue, Prologue
from optgraph.kernels.frame.launch import Launch, targeting
from optgraph.kernels.frame.split import MAX_TILES
from optgraph.kernels.frame.tile import Tile, blocks_along
from optgraph.tune.layers import Layer

AROUND, ALONG = Window((3, 3), pads=(1, 1, 1, 1)), Window((1, 7), pads=(0, 3, 0, 3))
TILE = Tile(64, 32, 64, 4, 9, box=(1, 8, 8), splits=2, streamed=True)
ROWS = Tile(64, 32, 64, 4, 6, box=(1, 64, 1), splits=2, streamed=True)


def conv(shape: tuple[int, ...], columns: int, window: Window, target: Target = SM_90, **options: Any) -> Launch:
    dtype = options.pop("dtype", "fp16")
    sample = conv2d.sample(shape, columns, window, after=Epilogue(True, RELU), **options)  # type: ignore[arg-type]
    return Layer(conv2d.CONV2D, sample.typed(dtype)).dry(target)


def product(shape: tuple[int, ...], *columns: int, target: Target = SM_90, **options: Any) -> Launch:
    sample = pointwise.sample(shape, *columns, **options)  # type: ignore[arg-type]
    return Layer(pointwise.POINTWISE, sample.typed("fp16")).dry(target)


def test_small_maps_at_batch_1_have_all_blocks_under_way() -> None:
    launches = [
        *(conv((1, 17, 17, 192), 192, ALONG), conv((1, 35, 35, 96), 96, AROUND), conv((1, 8, 8, 448), 384, AROUND)),
        *(conv((1, 17, 17, 160), 160, ALONG, dtype="bf16"), product((1, 17, 17, 768), 192, 128, 192)),
    ]
    for launch in launches:
        tile = launch.tile
        assert launch.code.name == "conv2d_streamed" and tile.streamed and launch.otherwise
        assert launch.programs <= 2 * SM_90.device.sms
        with targeting(SM_90):
            plain = launch.otherwise()
        assert not (plain.tile.streamed or plain.tile.producers) and plain.otherwise is None


def test_elsewhere_launches_stay_plain() -> None:
    for target in (SM_80, Target((8, 9)), Target((10, 0)), INTERPRET):
        assert not conv((1, 17, 17, 192), 192, ALONG, target).tile.streamed
        assert not product((1, 17, 17, 768), 192, target=target).tile.streamed
    assert not conv((64, 17, 17, 192), 192, ALONG).tile.streamed
    assert not conv((1, 147, 147, 32), 64, AROUND).tile.streamed
    assert not product((1, 147, 147, 64), 128).tile.streamed


@pytest.mark.parametrize(
    ("shape", "columns", "window", "options"),
    [
        ((1, 17, 17, 128), 128, AROUND, {"dtype": "fp32"}),
        ((1, 17, 17, 100), 128, AROUND, {}),
        ((1, 17, 17, 128), 100, AROUND, {}),
        ((1, 17, 17, 128), 128, AROUND, {"groups": 2}),
        ((1, 17, 17, 128), 128, AROUND, {"before": Prologue(act=RELU)}),
        ((1, 17, 17, 128), 128, Window((3, 3), (2, 2)), {}),
    ],
)
def test_what_it_cannot_do_stays_plain(
    shape: tuple[int, ...], columns: int, window: Window, options: dict[str, Any]
) -> None:
    assert not conv(shape, columns, window, **options).tile.streamed
    with pytest.raises(ValueError, match="a streamed tile needs sm_90"):
        conv(shape, columns, window, tile=TILE, **options)


def test_its_tile_is_refused_elsewhere_and_plain_in_the_interpreter() -> None:
    for target in (SM_80, Target((10, 0))):
        with pytest.raises(ValueError, match="a streamed tile needs sm_90"):
            conv((1, 17, 17, 128), 128, AROUND, target, tile=TILE)
        with pytest.raises(ValueError, match="a streamed tile needs sm_90"):
            product((1, 17, 17, 768), 192, target=target, tile=ROWS)
    with pytest.raises(ValueError, match="a streamed tile needs sm_90"):
        product((1, 17, 17, 768), 192, stride=(2, 2), tile=ROWS)
    assert conv((1, 17, 17, 128), 128, AROUND, tile=TILE).tile == TILE
    assert not conv((1, 17, 17, 128), 128, AROUND, INTERPRET, tile=TILE).tile.streamed
    assert not product((1, 17, 17, 768), 192, target=INTERPRET, tile=ROWS).tile.streamed


def test_stages_that_do_not_hold_all_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="18 steps of the depth do not fit 1 times 9 stages"):
        conv((1, 17, 17, 128), 128, AROUND, tile=Tile(64, 32, 64, 4, 9, box=(1, 8, 8), streamed=True))


def test_more_tiles_than_counters_or_inverses_reach_are_plain() -> None:
    most = MAX_TILES // (9 * 4)  # images, of nine boxes and four blocks of columns
    assert conv((most, 17, 17, 128), 128, AROUND, tile=TILE).tile == TILE
    assert not conv((most + 1, 17, 17, 128), 128, AROUND, tile=TILE).tile.streamed
    assert streamed.place((9000, 8, 8), TILE, 1, 128, AROUND) is None


@pytest.mark.parametrize("divisor", [1, 2, 3, 5, 7, 9, 18, 63, 127])
def test_inverses_divide(divisor: int) -> None:
    most = max(n for n in range(5000) if streamed.exact(n, divisor))
    assert most > 2000
    for number in range(most + 1):
        assert number * streamed.inverse(divisor) >> streamed.SHIFT == number // divisor


@pytest.mark.parametrize(
    ("extent", "boxes"),
    [((1, 17, 17), 6), ((1, 289, 1), 5), ((1, 35, 35), 20), ((1, 8, 8), 1), ((2, 8, 8), 2), ((3, 4, 4), 1)],
)
def test_boxes_waste_little(extent: tuple[int, int, int], boxes: int) -> None:
    box = streamed.box_of(extent)
    assert blocks_along(extent, box) == boxes
    assert box[0] * box[1] * box[2] <= streamed.ROWS
