"""The pooling kernel beside its samples: ceil_mode, strips as on a GPU, NaN, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from optgraph.ir.quant import Quant
from optgraph.ir.values import RELU, Window
from optgraph.kernels.frame.ends import Epilogue, Prologue
from optgraph.kernels.frame.sample import window_sample
from optgraph.kernels.frame.tile import Tile
from optgraph.kernels.pool import POOL, pool, reference
from tests.support.kernel_checks import check, outside, poisoned

AROUND = Window((3, 3), pads=(1, 1, 1, 1))
KINDS = [{"kind": "max"}, {"kind": "average"}, {"kind": "average", "count_include_pad": True}]


@pytest.mark.parametrize("kind", ["max", "average"])
def test_ceil_mode(kind: str) -> None:
    """A ceil_mode pool is one with longer pads at the end."""
    x, out = torch.randn(2, 8, 10, 5), poisoned(2, 4, 5, 5)
    pool(x, out, kind=kind, window=Window((3, 3), (2, 2), (0, 0, 1, 1)))()
    function = F.max_pool2d if kind == "max" else F.avg_pool2d
    expected = function(x.double().permute(0, 3, 1, 2), 3, 2, ceil_mode=True).permute(0, 2, 3, 1)
    assert (out - expected).norm() < 1e-6 * math.sqrt(9) * expected.norm()
    assert outside(out).isnan().all()


def test_max_of_negative_values_ignores_padding() -> None:
    x, out = -torch.randn(1, 3, 3, 4).abs() - 1, poisoned(1, 3, 3, 4)
    pool(x, out, kind="max", window=AROUND)()
    assert (out <= -1).all()


@pytest.mark.parametrize("kind", ["max", "average"])
def test_nan_reaches_only_its_windows(kind: str) -> None:
    x, out = torch.randn(1, 5, 5, 2), poisoned(1, 3, 3, 2)
    x[0, 0, 0, 1] = math.nan
    pool(x, out, kind=kind, window=Window((3, 3)), after=Epilogue(act=RELU))()
    assert out.isnan().nonzero().tolist() == [[0, 0, 0, 1]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stride", [1, 2])
def test_reference(kind: dict[str, Any], stride: int) -> None:
    x = torch.randn(2, 6, 7, 4)
    planes = x.double().permute(0, 3, 1, 2)
    if kind["kind"] == "max":
        expected = F.max_pool2d(planes, 3, stride, 1)
    else:
        expected = F.avg_pool2d(planes, 3, stride, 1, count_include_pad=kind.get("count_include_pad", False))
    actual = reference(x, x, window=Window((3, 3), (stride, stride), (1, 1, 1, 1)), **kind)
    torch.testing.assert_close(actual, expected.permute(0, 2, 3, 1))


@pytest.mark.parametrize("height", [5, 8])
@pytest.mark.parametrize("strip", [2, 4])
def test_strips(monkeypatch: pytest.MonkeyPatch, height: int, strip: int) -> None:
    monkeypatch.setattr("optgraph.kernels.frame.rowwise.strip_rows", lambda *_: strip)
    after, tile = Epilogue(residual=True), Tile(32, 16)
    check(POOL, window_sample((3, height, 7, 5), 5, AROUND, kind="average", after=after, tile=tile))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": torch.empty(1, 4, 4, 8)}, "out"),
        ({"out": torch.empty(1, 8, 2, 2).permute(0, 2, 3, 1)}, "out"),
        ({"kind": "min"}, "kind"),
        ({"after": Epilogue(torch.empty(7))}, "bias"),
        ({"after": Epilogue(residual=torch.empty(1, 2, 2, 9))}, "residual"),
        ({"before": Prologue(torch.empty(8))}, "no scale"),
        ({"window": Window((3, 3), stride=(2, 2))}, "out"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    arguments = {"out": torch.empty(1, 2, 2, 8), "kind": "max", "window": Window((3, 3)), **options}
    with pytest.raises(ValueError, match=message):
        pool(torch.empty(1, 4, 4, 8), **arguments)


@pytest.mark.parametrize(
    ("window", "near"),
    [
        (AROUND, True),
        (Window((3, 3), (2, 2)), True),
        (Window((3, 3), pads=(3, 0, 0, 0)), False),
        (Window((3, 3), pads=(0, 0, 3, 0)), False),
        (Window((3, 3), pads=(2, 2, 2, 2), dilation=(2, 2)), False),
    ],
)
def test_the_nearest_pixel_stands_for_the_outside_where_every_window_has_it(window: Window, near: bool) -> None:
    grid = Quant(0.5, 3)
    x, out = torch.zeros(1, 6, 6, 4, dtype=torch.int8), torch.zeros(1, *window.over(6, 6), 4, dtype=torch.int8)
    launch = pool(x, out, kind="max", window=window, before=Prologue(quant=grid), after=Epilogue(quants=(grid,)))
    assert launch.constants["NEAR"] is near


@pytest.mark.parametrize(
    ("after", "kept"),
    [
        (Epilogue(quants=(Quant(0.5, 3),)), True),
        (Epilogue(quants=(Quant(0.5, 4),)), False),
        (Epilogue(act=RELU, quants=(Quant(0.5, 3),)), False),
        (Epilogue(quants=(Quant(0.25, 3), Quant(0.5, 3))), False),
    ],
)
def test_integers_stay_as_they_are_on_their_own_grid_alone(after: Epilogue, kept: bool) -> None:
    x, out = torch.zeros(1, 6, 6, 4, dtype=torch.int8), torch.zeros(1, 6, 6, 4, dtype=torch.int8)
    launch = pool(x, out, kind="average", window=AROUND, before=Prologue(quant=Quant(0.5, 3)), after=after)
    assert launch.constants["KEPT"] is kept


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [-128, 127])
def test_sums_of_the_least_and_of_the_largest_integers(kind: dict[str, Any], value: int) -> None:
    grid, window = Quant(0.5, value), Window((16, 16), pads=(15, 15, 0, 0))
    x, out = torch.full((1, 16, 16, 5), value, dtype=torch.int8), torch.zeros(1, 16, 16, 5, dtype=torch.int8)
    pool(x, out, window=window, before=Prologue(quant=grid), after=Epilogue(quants=(grid,)), **kind)()
    assert (out == value).all()
