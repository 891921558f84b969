"""Tile choice: valid for every size, and sensible where it matters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optgraph.base.devices import INTERPRET, SM_80, SM_90, Target
from optgraph.ir.values import Window
from optgraph.kernels.frame.choice import choose
from optgraph.kernels.frame.gemm import Gemm
from optgraph.kernels.frame.operands import check_window, flat_pixels, row_stride
from optgraph.kernels.frame.rows import row_tile
from optgraph.kernels.frame.tile import MAX_NUMEL, Tile, cdiv

SHARED = {"sm_80": 166_912, "sm_86": 101_376, "sm_89": 101_376, "sm_90": 232_448}
SHARED |= {"sm_100": 232_448, "sm_103": 232_448, "sm_120": 101_376, "sm_121": 101_376}
TARGETS = [INTERPRET, *map(Target.parse, SHARED)]
sizes = st.integers(1, 100_000)
channels = st.integers(1, 4096)
itemsizes = st.sampled_from([2, 4])
targets = st.sampled_from(TARGETS)


def gemm(m: int, n: int, k: int, itemsize: int, **more: Any) -> Gemm:
    return Gemm((1, m, 1), (n,), k, itemsize, **more)


def check(tile: Tile, itemsize: int, target: Target) -> None:
    for block in (tile.block_m, tile.block_n, tile.block_k):
        assert block >= 16 and block & (block - 1) == 0
    pairs = (tile.block_m, tile.block_n), (tile.block_m, tile.block_k), (tile.block_n, tile.block_k)
    assert max(a * b for a, b in pairs) <= MAX_NUMEL
    if not target.interpreted:
        stages = (tile.block_m + tile.block_n) * tile.block_k * itemsize * tile.num_stages
        assert stages <= SHARED[str(target)]
        assert tile.block_m * tile.block_n // (32 * tile.num_warps) <= 128, "accumulators fit the registers"


@given(sizes, channels, channels, itemsizes, targets, st.sampled_from([1, 7, 9]))
def test_gemm_tiles_are_valid(m: int, n: int, k: int, itemsize: int, target: Target, taps: int) -> None:
    problem = gemm(m, n, k, itemsize, taps=taps)
    for found in (problem, replace(problem, n=(n, 1, n), taps=1)):
        check(choose(found, target), itemsize, target)


@given(sizes, channels, channels, itemsizes, targets)
def test_separable_tiles_are_valid(m: int, n: int, c: int, itemsize: int, target: Target) -> None:
    tile = choose(gemm(m, n, c, itemsize, depthwise=9, splittable=False), target)
    check(tile, itemsize, target)
    assert target.interpreted or tile.num_stages == 1


@given(sizes, channels, itemsizes, targets)
def test_row_tiles_are_valid(m: int, c: int, itemsize: int, target: Target) -> None:
    tile = row_tile(m, c, itemsize, target)
    assert tile.block_m & (tile.block_m - 1) == 0 and tile.block_n & (tile.block_n - 1) == 0
    assert 1 <= tile.block_m * tile.block_n <= MAX_NUMEL


@pytest.mark.parametrize("target", [SM_80, SM_90])
def test_a_small_map_gets_small_tiles_and_a_big_one_big_tiles(target: Target) -> None:
    small, big = (choose(gemm(m, 192, k, 2), target) for m, k in ((289, 768), (32 * 5329, 64)))
    assert cdiv(289, small.block_m) * cdiv(192, small.block_n) >= 18
    assert small.block_m * small.block_n < big.block_m * big.block_n
    assert big.block_m >= 64 and big.block_n >= 64


def test_the_interpreter_covers_a_layer_in_few_programs() -> None:
    tile = choose(gemm(361, 728, 728, 4, depthwise=9, splittable=False), INTERPRET)
    assert tile.block_n >= 728, "one block of columns: the depthwise is done once"
    assert tile.block_m >= 361
    tile = choose(gemm(1225, 64, 192, 4), INTERPRET)
    assert cdiv(1225, tile.block_m) <= 2


def test_unknown_devices_are_treated_as_the_newest_older_one() -> None:
    problem = gemm(4096, 256, 256, 2)
    assert choose(problem, Target.parse("sm_103")) == choose(problem, Target.parse("sm_100"))
    assert choose(problem, Target.parse("sm_75")) == choose(problem, SM_80)


@pytest.mark.parametrize("target", ["sm_120", "sm_121", "sm_130"])
def test_chips_with_less_shared_memory_than_an_h100_get_tiles_that_fit(target: str) -> None:
    """No candidate is above it, nor the one that `optgraph tune` would try last; an H100 has some that are."""

    def largest(found: Target) -> int:
        tiles = gemm(4096, 512, 512, 2).candidates(found)
        return max((tile.block_m + tile.block_n) * tile.block_k * 2 * tile.num_stages for tile in tiles)

    assert largest(Target.parse(target)) <= SHARED["sm_120"] < largest(SM_90)


@pytest.mark.parametrize(
    ("size", "window", "expected"),
    [
        (299, Window((3, 3), stride=(2, 2)), 149),
        (35, Window((5, 5), pads=(2, 2, 2, 2)), 35),
        (10, Window((3, 3), stride=(2, 2), pads=(0, 0, 1, 1)), 5),
        (9, Window((3, 3), pads=(2, 2, 2, 2), dilation=(2, 2)), 9),
    ],
)
def test_output_size(size: int, window: Window, expected: int) -> None:
    x = torch.empty(2, size, size, 3)
    assert check_window(x, torch.empty(2, expected, expected, 5), window, 5) == (expected, expected)
    assert window.over(size, size) == (expected, expected)
    with pytest.raises(ValueError, match="out has shape"):
        check_window(x, torch.empty(2, expected + 1, expected, 5), window, 5)


def test_row_stride_of_slices_and_of_single_pixels() -> None:
    wide = torch.zeros(2, 3, 4, 20)
    assert row_stride(wide, "out") == 20
    assert row_stride(wide[..., 3:8], "out") == 20
    assert row_stride(torch.zeros(2, 8, 1, 1).permute(0, 2, 3, 1), "out") == 8
    assert row_stride(torch.zeros(5).as_strided((1, 1, 1, 5), (1, 1, 1, 1)), "out") == 5
    assert row_stride(wide[:1, :, :1, :7], "out") == 80  # one column of pixels, a row apart
    for bad in (
        wide[:, :, :2],
        wide[:, ::2],
        wide.transpose(1, 2),
        wide.permute(0, 3, 1, 2),
        wide[..., :1].expand(2, 3, 4, 5),
    ):
        with pytest.raises(ValueError, match="out needs channel stride 1 and dense pixels"):
            row_stride(bad, "out")
    assert flat_pixels(wide) and flat_pixels(wide[..., 2:5]) and flat_pixels(wide[1:, :, :, :])
    assert not flat_pixels(wide[:, :, :3]) and not flat_pixels(wide[:, ::2])
