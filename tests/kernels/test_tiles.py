"""Tile choice: valid for every size, and sensible where it matters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optgraph.kernels.frame import choice
from optgraph.kernels.frame.operands import flat_pixels, output_size, row_stride

TARGETS = ["interpret", "sm_80", "sm_86", "sm_89", "sm_90"]
sizes = st.integers(1, 100_000)
channels = st.integers(1, 4096)
itemsizes = st.sampled_from([2, 4])
targets = st.sampled_from(TARGETS)
SHARED = {"sm_80": 166_912, "sm_86": 101_376, "sm_89": 101_376, "sm_90": 232_448}


def check(tile: choice.Tile, itemsize: int, target: str) -> None:
    for block in (tile.block_m, tile.block_n, tile.block_k):
        assert block >= 16 and block & (block - 1) == 0
    pairs = (tile.block_m, tile.block_n), (tile.block_m, tile.block_k), (tile.block_n, tile.block_k)
    assert max(a * b for a, b in pairs) <= choice.MAX_NUMEL
    if target != "interpret":
        stages = (tile.block_m + tile.block_n) * tile.block_k * itemsize * tile.num_stages
        assert stages <= SHARED[target]
        assert tile.block_m * tile.block_n // (32 * tile.num_warps) <= 128, "accumulators fit the registers"


@given(sizes, channels, channels, itemsizes, targets, st.sampled_from([1, 7, 9]))
def test_gemm_tiles_are_valid(m: int, n: int, k: int, itemsize: int, target: str, taps: int) -> None:
    check(choice.gemm(m, n, k, itemsize, target, taps), itemsize, target)
    check(choice.gemm(m, [n, 1, n], k, itemsize, target), itemsize, target)


@given(sizes, channels, channels, itemsizes, targets)
def test_separable_tiles_are_valid(m: int, n: int, c: int, itemsize: int, target: str) -> None:
    tile = choice.separable(m, n, c, itemsize, target)
    check(tile, itemsize, target)
    assert target == "interpret" or tile.num_stages == 1


@given(sizes, channels, itemsizes, targets)
def test_row_tiles_are_valid(m: int, c: int, itemsize: int, target: str) -> None:
    block_m, block_n = choice.rows(m, c, itemsize, target)
    assert block_m & (block_m - 1) == 0 and block_n & (block_n - 1) == 0
    assert 1 <= block_m * block_n <= choice.MAX_NUMEL


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_a_small_map_gets_small_tiles_and_a_big_one_big_tiles(target: str) -> None:
    def blocks(m: int, n: int, tile: choice.Tile) -> int:
        return choice.cdiv(m, tile.block_m) * choice.cdiv(n, tile.block_n)

    small, big = choice.gemm(289, 192, 768, 2, target), choice.gemm(32 * 5329, 192, 64, 2, target)
    assert blocks(289, 192, small) >= 18
    assert small.block_m * small.block_n < big.block_m * big.block_n
    assert big.block_m >= 64 and big.block_n >= 64


def test_the_interpreter_covers_a_layer_in_few_programs() -> None:
    tile = choice.separable(361, 728, 728, 4, "interpret")
    assert tile.block_n >= 728, "one block of columns: the depthwise is done once"
    assert tile.block_m >= 361
    tile = choice.gemm(1225, 64, 192, 4, "interpret")
    assert choice.cdiv(1225, tile.block_m) <= 2


def test_unknown_devices_are_treated_as_the_newest_older_one() -> None:
    assert choice.gemm(4096, 256, 256, 2, "sm_100") == choice.gemm(4096, 256, 256, 2, "sm_90")
    assert choice.gemm(4096, 256, 256, 2, "sm_75") == choice.gemm(4096, 256, 256, 2, "sm_80")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [((299, 3, 2, 0, 0, 1), 149), ((35, 5, 1, 2, 2, 1), 35), ((10, 3, 2, 0, 1, 1), 5), ((9, 3, 1, 2, 2, 2), 9)],
)
def test_output_size(arguments: tuple[int, int, int, int, int, int], expected: int) -> None:
    assert output_size(*arguments) == expected


def test_row_stride_of_slices_and_of_single_pixels() -> None:
    torch = pytest.importorskip("torch")
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
