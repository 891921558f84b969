"""The depthwise kernel beside its samples: strips as on a GPU, NaN, packing, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from optgraph.base.devices import INTERPRET, SM_90
from optgraph.ir.values import RELU, Window
from optgraph.kernels.depthwise import DEPTHWISE, depthwise, pack, reference, sample
from optgraph.kernels.frame.ends import Epilogue, Prologue
from optgraph.kernels.frame.rows import Windows, strip_rows
from optgraph.kernels.frame.tile import Tile
from tests.support.kernel_checks import check, poisoned


def test_nan_reaches_only_its_windows() -> None:
    x, weight, out = torch.randn(1, 5, 5, 2), torch.ones(3, 3, 2), poisoned(1, 3, 3, 2)
    x[0, 0, 0, 1] = math.nan
    depthwise(x, weight, out, window=Window((3, 3)), after=Epilogue(act=RELU))()
    assert out.isnan().nonzero().tolist() == [[0, 0, 0, 1]]


def test_reference() -> None:
    x, weight, bias = torch.randn(2, 6, 5, 4).double(), torch.randn(4, 1, 3, 3).double(), torch.randn(4).double()
    expected = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride=2, padding=(1, 2), groups=4)
    window = Window((3, 3), (2, 2), (1, 2, 1, 2))
    actual = reference(x, pack(weight), x, window=window, after=Epilogue(bias))
    torch.testing.assert_close(actual, expected.permute(0, 2, 3, 1))


@pytest.mark.parametrize("height", [1, 3, 4, 7, 10, 19, 147])
@pytest.mark.parametrize("block_m", [1, 4, 16, 64])
def test_strips_waste_little(height: int, block_m: int) -> None:
    strip = strip_rows(height, 3, 1, block_m, SM_90)
    assert strip**2 <= block_m
    assert -(-height // strip) * strip <= 1.5 * height


@pytest.mark.parametrize("height", [5, 8])
@pytest.mark.parametrize("strip", [2, 4])
def test_strips(monkeypatch: pytest.MonkeyPatch, height: int, strip: int) -> None:
    monkeypatch.setattr("optgraph.kernels.frame.rowwise.strip_rows", lambda *_: strip)
    after, window = Epilogue(True, residual=True), Window((3, 3), pads=(1, 1, 1, 1))
    check(DEPTHWISE, sample((3, height, 7, 5), window, after=after, tile=Tile(32, 16)))


@pytest.mark.parametrize("height", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("rows", [2, 4])
def test_rows_past_the_end_are_not_written(height: int, rows: int) -> None:
    window, tile = Window((3, 3), pads=(1, 1, 1, 1)), Tile(8, 16, rows=rows)
    check(DEPTHWISE, sample((2, height, 5, 19), window, after=Epilogue(True, residual=True), tile=tile))


def problem(batch: int, kernel: tuple[int, int] = (3, 3), stride: int = 1, dilated: bool = False) -> Windows:
    return Windows("depthwise", (batch, 19, 19), 728, kernel, stride, dilated, itemsize=2)


def test_more_rows_a_program_where_they_leave_enough_programs() -> None:
    assert [problem(batch).candidates(SM_90)[0].rows for batch in (1, 8, 64)] == [2, 4, 4]
    assert Windows("depthwise", (1, 5, 5), 64, (3, 3), 1, False, 2).candidates(SM_90)[0].rows == 1


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (problem(64), [4, 2, 1]),
        (problem(64, stride=2), [4, 2, 1]),
        (problem(64, kernel=(7, 1)), [4, 2, 1]),
        (problem(64, stride=3), [1]),  # its windows share nothing
        (problem(64, kernel=(1, 9)), [1]),
        (problem(64, kernel=(5, 5)), [1]),
        (problem(64, dilated=True), [1]),
    ],
)
def test_several_rows_only_where_windows_share_some(found: Windows, expected: list[int]) -> None:
    for target in (SM_90, INTERPRET):
        assert [tile.rows for tile in found.candidates(target)] == expected


def test_a_row_of_the_input_is_read_once() -> None:
    assert [problem(1).reads(rows) for rows in (1, 2, 4)] == [3, 4, 6]
    assert [problem(1, stride=2).reads(rows) for rows in (1, 2, 4)] == [3, 5, 9]


@pytest.mark.parametrize("window", [Window((5, 5)), Window((3, 3), dilation=(2, 1))])
def test_rows_of_other_windows_are_refused(window: Window) -> None:
    with pytest.raises(ValueError, match="2 rows a program"):
        check(DEPTHWISE, sample((1, 9, 9, 8), window, tile=Tile(8, 16, rows=2)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": torch.empty(1, 4, 4, 8)}, "out"),
        ({"out": torch.empty(1, 8, 2, 2).permute(0, 2, 3, 1)}, "out"),
        ({"weight": torch.empty(3, 3, 7)}, "weight"),
        ({"weight": torch.empty(8, 1, 3, 3)}, "weight"),
        ({"after": Epilogue(torch.empty(7))}, "bias"),
        ({"after": Epilogue(torch.empty(8).half())}, "bias"),
        ({"before": Prologue(torch.empty(9))}, "pre_scale"),
        ({"after": Epilogue(residual=torch.empty(1, 2, 2, 9))}, "residual"),
        ({"window": Window((3, 3), stride=(2, 2))}, "out"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    arguments = {"x": torch.empty(1, 4, 4, 8), "weight": torch.empty(3, 3, 8), "window": Window((3, 3)), **options}
    arguments.setdefault("out", torch.empty(1, 2, 2, 8))
    with pytest.raises(ValueError, match=message):
        depthwise(**arguments)
