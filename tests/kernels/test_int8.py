"""int8 in kernels beside their samples: what a grid's zero adds, ties and what is no number, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from optgraph.ir.quant import LOWEST, Quant
from optgraph.ir.values import IDENTITY, RELU, Act, Window
from optgraph.kernels import conv2d, dense, depthwise, elementwise, pointwise, pool
from optgraph.kernels.frame.arguments import Scalar
from optgraph.kernels.frame.ends import Epilogue, Prologue
from optgraph.kernels.frame.sample import Operands
from optgraph.kernels.frame.starts import starts, window_starts
from tests.support.kernel_checks import CPU, KERNELS

GRID = Quant(0.5, 3)
WINDOWS = (
    Window((3, 3), pads=(1, 1, 1, 1)),
    Window((3, 3), (2, 2), (0, 0, 1, 1)),
    Window((5, 2), (2, 3), (3, 0, 2, 1)),
    Window((3, 3), (1, 2), (4, 2, 3, 2), (2, 3)),
    Window((7, 7), (1, 1), (3, 3, 3, 3)),
    Window((1, 1)),
)


def integers(*shape: int) -> torch.Tensor:
    return torch.randint(-128, 128, shape, dtype=torch.int8)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize(("height", "width"), [(6, 5), (11, 9), (3, 4), (1, 1), (2, 2), (1, 3)])
@pytest.mark.parametrize("groups", [1, 3])
def test_what_lies_outside_is_the_zero_of_the_grid(window: Window, height: int, width: int, groups: int) -> None:
    x, weight = integers(2, height, width, 6), integers(9, 6 // groups, *window.kernel)
    top, left, bottom, right = window.pads
    image = F.pad(x.double().permute(0, 3, 1, 2) - GRID.zero, (left, right, top, bottom))
    if image.shape[2] < window.kernel[0] * window.dilation[0] or image.shape[3] < window.kernel[1] * window.dilation[1]:
        pytest.skip("no window fits")
    expected = F.conv2d(image, weight.double(), None, window.stride, 0, window.dilation, groups).permute(0, 2, 3, 1)
    start = window_starts(weight, GRID.zero, window, (height, width))
    after, out = Epilogue(scale=torch.ones(9), start=start), torch.zeros(expected.shape)
    packed = conv2d.pack_integers(weight, groups)
    found = conv2d.reference(x, packed, out, window=window, groups=groups, after=after)
    assert torch.equal(found, expected)
    conv2d.conv2d(x, packed, out, window=window, groups=groups, after=after)()
    assert torch.equal(out.double(), expected)


def test_a_zero_of_none_needs_no_start() -> None:
    assert window_starts(integers(4, 3, 3, 3), 0, WINDOWS[0], (9, 9)) is None
    assert starts(integers(4, 3), 0) is None


def test_few_kinds_of_pixels_where_an_image_is_large() -> None:
    start = window_starts(integers(4, 3, 3, 3), 5, WINDOWS[0], (99, 50))
    assert start is not None and start.shape == (3, 3, 4)
    start = window_starts(integers(4, 3, 1, 1), 5, Window((1, 1)), (99, 50))
    assert start is not None and start.shape == (4,)


def test_pointwise_takes_off_the_zero_of_the_grid() -> None:
    x, weights = integers(1, 3, 5, 37), (integers(7, 37, 1, 1), integers(20, 37, 1, 1))
    packed = pointwise.pack_integers(*weights)
    after = Epilogue(scale=torch.ones(27), start=starts(packed, GRID.zero))
    outs = [torch.zeros(1, 3, 5, 7), torch.zeros(1, 3, 5, 20)]
    pointwise.pointwise(x, packed, outs, after=after)()
    for weight, out in zip(weights, outs, strict=True):
        assert torch.equal(out.double(), (x.double() - GRID.zero) @ weight.double().flatten(1).t())


@pytest.mark.parametrize("quant", [Quant(0.5, 0), Quant(0.25, -128), Quant(0.1, 7)])
def test_ties_go_to_the_even_and_what_is_too_large_to_the_ends(quant: Quant) -> None:
    steps = torch.arange(-600, 600).float() / 4
    x = torch.cat([steps * quant.scale, torch.tensor([math.inf, -math.inf, 1e38, -1e38, 0.0, -0.0])])[
        None, None, :, None
    ]
    out, real = torch.zeros(x.shape, dtype=torch.int8), torch.zeros(x.shape)
    for made in (out, real):
        elementwise.elementwise(x, made, quants=(quant,))()
    assert torch.equal(out.float(), quant.integers(x)) and torch.equal(real, quant.apply(x))


def test_nan_stays_nan_and_is_the_lowest_integer() -> None:
    x = torch.full((1, 1, 1, 1), math.nan)
    out, real = torch.zeros(x.shape, dtype=torch.int8), torch.zeros(x.shape)
    for made in (out, real):
        elementwise.elementwise(x, made, quants=(GRID,))()
    assert out.item() == -128 and real.isnan().all()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"x": torch.zeros(1, 2, 2, 16)}, "an int8 weight is multiplied with int8"),
        ({"before": Prologue(act=RELU)}, "nothing before it"),
        ({"after": Epilogue(quants=(GRID,))}, "a scale is missing"),
        ({"after": Epilogue(scale=torch.ones(8))}, "out is torch.int8, and no grid"),
        ({"after": Epilogue(scale=torch.ones(8), quants=(GRID,) * 3)}, "3 grids"),
        ({"after": Epilogue(scale=torch.ones(8), quants=(GRID,), start=torch.ones(8))}, "expected int32"),
        ({"weight": torch.zeros(16, 8)}, "x is torch.int8, and no grid"),
        ({"weight": torch.zeros(16, 8), "before": Prologue(quant=GRID)}, "a scale is given"),
        ({"residual": torch.zeros(1, 2, 2, 8, dtype=torch.int8)}, "residual is torch.int8, and no grid"),
        ({"after": Epilogue(scale=torch.ones(8), quants=(GRID,), before_residual=GRID)}, "and no residual"),
        ({"weight": integers(8, 131_072), "x": integers(1, 2, 2, 131_072)}, "131072 terms"),
    ],
)
def test_what_does_not_go_together_is_refused(change: dict[str, Any], why: str) -> None:
    call = {"x": integers(1, 2, 2, 16), "weight": integers(8, 16)} | change
    after = call.pop("after", Epilogue(scale=torch.ones(8), quants=(GRID,), residual=call.pop("residual", None)))
    with pytest.raises(ValueError, match=why):
        pointwise.pointwise(call.pop("x"), call.pop("weight"), [torch.zeros(1, 2, 2, 8).char()], after=after, **call)


def test_outputs_that_share_an_input_have_grids_of_their_own() -> None:
    x, packed, outs = integers(1, 2, 2, 16), integers(12, 16), [torch.zeros(1, 2, 2, n).char() for n in (4, 8)]
    after = Epilogue(scale=torch.ones(12))
    for quants, why in ((((GRID,),), "one each"), (((GRID,), ()), "none empty"), ((), "no grid")):
        with pytest.raises(ValueError, match=why):
            pointwise.pointwise(x, packed, outs, after=after, quants=quants)


def test_depthwise_and_dense_take_off_the_zero_of_the_grid() -> None:
    x, weight, window = integers(2, 5, 4, 37), integers(37, 1, 3, 3), WINDOWS[0]
    image = F.pad(x.double().permute(0, 3, 1, 2) - GRID.zero, (1, 1, 1, 1))
    out, after = torch.zeros(x.shape), Epilogue(scale=torch.ones(37), start=starts(weight, GRID.zero))
    depthwise.depthwise(x, depthwise.pack(weight), out, window=window, before=Prologue(quant=GRID), after=after)()
    assert torch.equal(out.double(), F.conv2d(image, weight.double(), groups=37).permute(0, 2, 3, 1))

    weight, rows = integers(10, 5 * 4 * 37), torch.zeros(2, 10)
    packed = dense.pack_integers(weight, (37, 5, 4))
    dense.dense(x.flatten(1), packed, rows, scale=torch.ones(10), start=starts(weight, GRID.zero))()
    assert torch.equal(rows.double(), (x.double() - GRID.zero).permute(0, 3, 1, 2).flatten(1) @ weight.double().t())


@pytest.mark.parametrize("height", [1, 2])
@pytest.mark.parametrize("width", range(1, 10))
def test_a_depthwise_row_of_any_width_is_exact(height: int, width: int) -> None:
    x, weight = integers(1, 5, 12, 19), integers(19, 1, height, width)
    x[..., 0], weight[0] = -128, -128  # the largest products
    expected = F.conv2d(x.double().permute(0, 3, 1, 2), weight.double(), groups=19).permute(0, 2, 3, 1)
    out, after = torch.zeros(expected.shape), Epilogue(scale=torch.ones(19))
    depthwise.depthwise(x, depthwise.pack(weight), out, window=Window((height, width)), after=after)()
    assert torch.equal(out.double(), expected)


def test_a_window_outside_of_the_image_has_no_maximum() -> None:
    x, out = torch.zeros(1, 2, 2, 16).char(), torch.zeros(1, 4, 4, 16)
    pool.pool(x, out, kind="max", window=Window((1, 1), pads=(1, 1, 1, 1)), before=Prologue(quant=GRID))()
    assert (out[0, 1:3, 1:3] == -1.5).all() and out[0, 0].isneginf().all()


FLOATS = ("lrn", "softmax", "matmul", "separable", "bottleneck", "pooled_pointwise", "reduce", "normalise")


@pytest.mark.parametrize("kernel", FLOATS)
def test_kernels_of_floats_alone_refuse_int8(kernel: str) -> None:
    (found,) = [each for each in KERNELS if each.name == kernel]
    operands = Operands(found, next(iter(found.samples()))[1].typed("fp16"), CPU)
    operands.arguments["x"] = operands.arguments["x"].to(torch.int8)
    with pytest.raises(ValueError, match="x is int8"):
        operands.launch()


@pytest.mark.parametrize(("zero", "left"), [(LOWEST, IDENTITY), (LOWEST + 1, RELU)])
def test_a_relu_is_left_to_a_grid_without_numbers_below_zero(zero: int, left: Act) -> None:
    grid, other = Quant(0.25, zero), Quant(0.25, 5)
    ends = [Epilogue(act=RELU, quants=(grid,)), Epilogue(act=RELU, quants=(grid, other))]
    added = torch.zeros(1, 2, 2, 4)
    ends.append(Epilogue(act=RELU, residual=added, before_residual=grid))
    assert [end.argument().act for end in ends] == [Scalar.of(left)[0]] * 3
    after = Epilogue(residual=added, post=RELU, quants=(grid,)).argument()
    assert after.post == Scalar.of(left)[0]


def test_a_relu_stays_where_something_is_between_it_and_the_grid() -> None:
    grid, added = Quant(0.25, LOWEST), torch.zeros(1, 2, 2, 4)
    after = [Epilogue(act=RELU, residual=added, quants=(grid,)), Epilogue(act=RELU, post=Act("tanh"), quants=(grid,))]
    assert [end.argument().act for end in after] == [Scalar.of(RELU)[0]] * 2
    assert Epilogue(act=RELU, quants=(Quant(0.25, 5), grid)).argument().act == Scalar.of(RELU)[0]


def test_outputs_of_one_launch_have_a_relu_or_leave_it_to_their_grids() -> None:
    x, weights = integers(1, 3, 5, 37), (integers(7, 37, 1, 1), integers(20, 37, 1, 1))
    packed, after = pointwise.pack_integers(*weights), Epilogue(scale=torch.full((27,), 1e-3))
    quants, acts = ((Quant(0.125, LOWEST),), (Quant(0.25, 5),)), (RELU, RELU)
    outs = [torch.full((1, 3, 5, size), 99, dtype=torch.int8) for size in (7, 20)]
    launch = pointwise.pointwise(x, packed, outs, acts=acts, quants=quants, after=after)
    assert launch.arguments["act_bits"] == 0b10
    launch()
    for out, expected in zip(
        outs, pointwise.reference(x, packed, outs, acts=acts, quants=quants, after=after), strict=True
    ):
        assert torch.equal(out.double(), expected)
