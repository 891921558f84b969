"""The warp-specialised convolution: where it is chosen, and where not. What it computes, the emulator shows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from optgraph.base.devices import INTERPRET, SM_80, SM_90, Target
from optgraph.ir.quant import Quant
from optgraph.ir.values import RELU, Window
from optgraph.kernels import conv2d
from optgraph.kernels.frame import halos
from optgraph.kernels.frame.demand import middle
from optgraph.kernels.frame.ends import Epilogue, Prologue
from optgraph.kernels.frame.halos import Halo
from optgraph.kernels.frame.launch import Launch, targeting
from optgraph.kernels.frame.sample import image
from optgraph.kernels.frame.tile import Tile
from optgraph.tune.layers import Layer

AROUND = Window((3, 3), pads=(1, 1, 1, 1))
# Of the Inceptions: images, input, columns, kernel.
LAYERS = [
    ((64, 73, 73, 80), 192, Window((3, 3))),
    ((64, 35, 35, 48), 64, Window((5, 5), pads=(2, 2, 2, 2))),
    ((64, 35, 35, 96), 96, AROUND),
    ((64, 17, 17, 192), 192, Window((1, 7), pads=(0, 3, 0, 3))),
    ((64, 17, 17, 160), 192, Window((7, 1), pads=(3, 0, 3, 0))),
    ((64, 35, 35, 288), 384, Window((3, 3), (2, 2))),
    ((8, 73, 73, 80), 192, Window((3, 3))),
]

INT8 = image(64, 35, 35, 96, dtype="int8")


def dry(
    shape: tuple[int, ...], columns: int, window: Window, target: Target = SM_90, dtype: str = "fp16", **options: Any
) -> Launch:
    """A launch on memory that does not exist."""
    ends = Epilogue(True, RELU)
    if dtype == "int8":
        options, ends = {"integers": True, "stored": "int8"} | options, replace(ends, quants=(Quant(0.1, -128),))
    sample = conv2d.sample(shape, columns, window, **{"after": ends, **options})  # type: ignore[arg-type]
    return Layer(conv2d.CONV2D, sample.typed("fp16" if dtype == "int8" else dtype)).dry(target)


@pytest.mark.parametrize(("shape", "columns", "window"), LAYERS)
def test_chosen_where_it_is_predicted_to_be_faster(shape: tuple[int, ...], columns: int, window: Window) -> None:
    for dtype in ("fp16", "bf16", "int8"):
        launch = dry(shape, columns, window, dtype=dtype)
        assert launch.code.name == "conv2d_specialised" and launch.tile.producers and launch.otherwise
        with targeting(SM_90):
            plain = launch.otherwise()
        assert plain.code.name == "conv2d" and not plain.otherwise
        assert plain.arguments["out"] is launch.arguments["out"]
        device = SM_90.device
        if dtype != "int8":  # of whose plain kernels no tile tells what machine code does, that chains bind them
            assert middle([launch], device) < middle([plain], device)
        one, other = (each.programs * each.work.of_program(each.programs).bytes for each in (launch, plain))
        assert one < 0.75 * other


def test_elsewhere_launches_stay_plain() -> None:
    shape, columns, window = LAYERS[3]
    for target in (SM_80, Target((8, 9)), Target((10, 0)), INTERPRET):
        assert dry(shape, columns, window, target).code.name == "conv2d"
    for _, columns, window in LAYERS:
        assert not dry((1, 17, 17, 192), columns, window).tile.producers


@pytest.mark.parametrize(
    ("shape", "columns", "window", "options"),
    [
        ((64, 35, 35, 96), 96, AROUND, {"dtype": "fp32"}),
        ((64, 35, 35, 92), 96, AROUND, {}),
        ((64, 35, 35, 96), 92, AROUND, {}),
        ((64, 35, 35, 96), 32, AROUND, {}),  # half of what is multiplied would be nothing
        ((64, 35, 35, 192), 192, AROUND, {"groups": 2}),
        ((64, 35, 35, 96), 96, AROUND, {"before": Prologue(act=RELU)}),
        ((64, 35, 35, 96), 96, AROUND, {"x": image(64, 35, 35, 96, planes=True)}),
        ((64, 35, 35, 96), 96, AROUND, {"x": image(64, 35, 35, 96, dtype="float32")}),
        ((64, 35, 35, 96), 96, Window((3, 3), pads=(2, 2, 2, 2), dilation=(2, 2)), {}),
        ((64, 35, 35, 96), 96, Window((3, 3), (3, 3)), {}),
        ((64, 35, 35, 96), 96, Window((1, 1), (2, 2)), {}),
        ((64, 35, 35, 96), 96, Window((1, 9), pads=(0, 4, 0, 4)), {}),
        ((64, 35, 35, 104), 96, AROUND, {"dtype": "int8"}),
        ((64, 35, 35, 96), 32, AROUND, {"dtype": "int8"}),
        ((64, 35, 35, 192), 192, AROUND, {"dtype": "int8", "groups": 2}),
        ((64, 35, 35, 96), 96, AROUND, {"dtype": "int8", "x": image(64, 35, 35, 96, dtype="int8", planes=True)}),
        ((64, 35, 35, 96), 96, AROUND, {"dtype": "int8", "x": image(64, 35, 35, 96, dtype="int8", beside=8)}),
        ((64, 35, 35, 96), 96, AROUND, {"x": INT8, "before": Prologue(quant=Quant(1.0))}),
    ],
)
def test_what_it_cannot_do_stays_plain(
    shape: tuple[int, ...], columns: int, window: Window, options: dict[str, Any]
) -> None:
    assert dry(shape, columns, window, **options).code.name == "conv2d"
    tile = Tile(128, 64, 32, 8, 2, box=(64, 1, 1), producers=2)
    if columns != 32:
        with pytest.raises(ValueError, match="specialised warps need sm_90"):
            dry(shape, columns, window, tile=tile, **options)


def test_integers_may_be_stored_as_floats() -> None:
    shape, columns, window = LAYERS[3]
    launch = dry(shape, columns, window, dtype="int8", stored="stored", after=Epilogue(True, RELU))
    assert launch.code.name == "conv2d_specialised"
    assert launch.arguments["out"].dtype == torch.float16 and launch.arguments["x"].tensor.dtype == torch.int8


def test_the_deeper_step_where_its_products_are_short() -> None:
    """Of few columns a tap of 64 channels would end before its barriers; of 96 channels both cost the same."""
    halo = Halo((64, 17, 17), (1, 7), (1, 1))
    shallow, deep = (Tile(128, 64, k, 8, 8, box=(64, 1, 1), producers=2) for k in (64, 128))
    clocks = [halos.program(halo, tile, 128, 64, 1, False).clocks for tile in (shallow, deep)]
    assert clocks[1] < clocks[0]


def test_its_tile_is_refused_elsewhere_and_plain_in_the_interpreter() -> None:
    tile = Tile(128, 64, 32, 8, 2, box=(8, 8, 1), producers=2)
    with pytest.raises(ValueError, match="specialised warps need sm_90"):
        dry((8, 9, 9, 40), 72, AROUND, SM_80, tile=tile)
    assert dry((8, 9, 9, 40), 72, AROUND, tile=tile).tile == tile
    assert not dry((8, 9, 9, 40), 72, AROUND, INTERPRET, tile=tile).tile.producers


@pytest.mark.parametrize("kernel", [(1, 7), (7, 1), (3, 3), (5, 5), (2, 3), (7, 7)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (1, 2)])
@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("itemsize", [1, 2])
def test_tiles_fit(kernel: tuple[int, int], stride: tuple[int, int], plain: bool, itemsize: int) -> None:
    halo = Halo((64, 17, 19), kernel, stride)
    found = list(halos.tiles(halo, 192, itemsize, plain, SM_90))
    assert found and len(set(found)) == len(found)
    assert {tile.block_k for tile in found} <= ({32} if itemsize == 2 else {64, 128})
    for tile in found:
        assert halos.shared_bytes(halo, tile, itemsize) <= SM_90.device.block_shared
        assert tile.block_m * tile.block_n <= (192 if plain else 128) * 32 * tile.num_warps  # registers of a thread
        assert tile.box and tile.box[2 if kernel[1] >= kernel[0] else 1] == 1
        images, rows, columns = halo.covered(tile)
        assert images * rows * columns == tile.block_m
        enough = -(-64 // images) * -(-17 // rows) * -(-19 // columns) * -(-192 // tile.block_n)
        assert halos.programs(halo, tile, 192) == enough


def test_what_a_program_fetches_and_multiplies() -> None:
    halo, tile = Halo((64, 8, 8), (5, 3), (1, 1)), Tile(256, 128, 32, 8, 8, box=(64, 1, 1), producers=2)
    program = halos.program(halo, tile, 48, 96, 2, residual=True)
    halo_rows, weights, out = 64 * (4 + 4), 5 * 96, 256 * 96
    assert program.bytes == 2 * (3 * 48 * (halo_rows + weights) + 2 * out)
    assert program.product == 2 * 256 * 128 * 15 * 64
