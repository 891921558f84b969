"""The depthwise kernel in the interpreter against float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from optgraph.ir.values import RELU, Act
from optgraph.kernels.depthwise import depthwise, pack, reference
from optgraph.kernels.frame.choice import Tile
from optgraph.kernels.frame.operands import output_size
from optgraph.kernels.jit.addressing import strip_rows
from tests.support.kernel_checks import DTYPES, check, image, poisoned, sliced

SMALL = Tile(32, 16)


def run(
    shape: tuple[int, int, int, int],
    kernel: tuple[int, int],
    *,
    dtype: torch.dtype = torch.float32,
    nchw: bool = False,
    bias: bool = True,
    residual: bool = False,
    pre: tuple[str, ...] = (),
    tile: Tile | None = None,
    **options: Any,
) -> None:
    torch.manual_seed(0)
    n, h, w, c = shape
    stride, pads, dilation = (
        options.get(k, d) for k, d in [("stride", (1, 1)), ("pads", (0,) * 4), ("dilation", (1, 1))]
    )
    out_h = output_size(h, kernel[0], stride[0], pads[0], pads[2], dilation[0])
    out_w = output_size(w, kernel[1], stride[1], pads[1], pads[3], dilation[1])
    x, weight = image(*shape, dtype=dtype, nchw=nchw), pack(torch.randn(c, 1, *kernel)).to(dtype)
    out = poisoned(n, out_h, out_w, c, dtype=dtype)
    options |= {name: torch.randn(c) for name in pre}
    options["residual"] = sliced(n, out_h, out_w, c, dtype=dtype) if residual else None
    arguments = (x, weight, torch.randn(c) if bias else None, out)
    depthwise(*arguments, tile=tile, **options)()
    check(out, reference(*arguments, **options), kernel[0] * kernel[1])


@pytest.mark.parametrize("tile", [None, SMALL, Tile(64, 8)])
@pytest.mark.parametrize("nchw", [False, True])
@pytest.mark.parametrize("shape", [(1, 7, 9, 37), (3, 13, 5, 3), (1, 3, 3, 73), (2, 5, 6, 1)])
def test_odd_sizes(shape: tuple[int, int, int, int], nchw: bool, tile: Tile | None) -> None:
    run(shape, (3, 3), pads=(1, 1, 1, 1), nchw=nchw, tile=tile, act=RELU)


@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (2, 1)])
@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (0, 0, 1, 1), (2, 1, 0, 3)])
@pytest.mark.parametrize("kernel", [(3, 3), (5, 5), (1, 7)])
def test_windows(kernel: tuple[int, int], pads: tuple[int, ...], stride: tuple[int, int]) -> None:
    run((2, 9, 8, 5), kernel, pads=pads, stride=stride, tile=Tile(64, 4))


@pytest.mark.parametrize("kernel", [(1, 1), (7, 1), (3, 9), (2, 11)])
def test_unusual_kernels(kernel: tuple[int, int]) -> None:
    run((1, 8, 12, 5), kernel, pads=(1, 1, 1, 1))


def test_dilation() -> None:
    run((1, 9, 11, 5), (3, 3), pads=(2, 3, 2, 3), dilation=(2, 3), tile=SMALL)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pre", [(), ("pre_scale",), ("pre_shift",), ("pre_scale", "pre_shift")])
@pytest.mark.parametrize("pre_act", [Act(), RELU, Act("sigmoid")])
@pytest.mark.parametrize("residual", [False, True])
def test_prologue_and_epilogue(dtype: torch.dtype, pre: tuple[str, ...], pre_act: Act, residual: bool) -> None:
    post = RELU if residual else Act()
    run(
        (2, 4, 5, 19), (3, 3), pads=(1, 1, 1, 1), dtype=dtype, bias=residual, residual=residual, pre=pre,
        pre_act=pre_act, act=Act("clip", -1.0, 1.0), post=post, tile=SMALL,
    )  # fmt: skip


def test_float32_input_of_a_half_network() -> None:
    x, weight = image(1, 5, 5, 6, nchw=True), pack(torch.randn(6, 1, 3, 3)).half()
    out = poisoned(1, 3, 3, 6, dtype=torch.float16)
    depthwise(x, weight, None, out)()
    check(out, reference(x, weight, None, out))


def test_nan_reaches_only_its_windows() -> None:
    x, weight, out = image(1, 5, 5, 2), torch.ones(3, 3, 2), poisoned(1, 3, 3, 2)
    x[0, 0, 0, 1] = math.nan
    depthwise(x, weight, None, out, act=RELU)()
    assert out.isnan().nonzero().tolist() == [[0, 0, 0, 1]]


def test_reference() -> None:
    x, weight, bias = image(2, 6, 5, 4).double(), torch.randn(4, 1, 3, 3).double(), torch.randn(4).double()
    expected = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride=2, padding=(1, 2), groups=4)
    actual = reference(x, pack(weight), bias, x, stride=(2, 2), pads=(1, 2, 1, 2))
    torch.testing.assert_close(actual, expected.permute(0, 2, 3, 1))


@pytest.mark.parametrize("height", [1, 3, 4, 7, 10, 19, 147])
@pytest.mark.parametrize("block_m", [1, 4, 16, 64])
def test_strips_waste_little(height: int, block_m: int) -> None:
    strip = strip_rows(height, 3, 1, block_m, "sm_90")
    assert strip**2 <= block_m
    assert -(-height // strip) * strip <= 1.5 * height


@pytest.mark.parametrize("height", [5, 8])
@pytest.mark.parametrize("strip", [2, 4])
def test_strips(monkeypatch: pytest.MonkeyPatch, height: int, strip: int) -> None:
    monkeypatch.setattr("optgraph.kernels.depthwise.strip_rows", lambda *_: strip)
    run((3, height, 7, 5), (3, 3), pads=(1, 1, 1, 1), residual=True, tile=SMALL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": torch.empty(1, 4, 4, 8)}, "out"),
        ({"out": torch.empty(1, 8, 2, 2).permute(0, 2, 3, 1)}, "out"),
        ({"weight": torch.empty(3, 3, 7)}, "weight"),
        ({"weight": torch.empty(8, 1, 3, 3)}, "weight"),
        ({"bias": torch.empty(7)}, "bias"),
        ({"bias": torch.empty(8).half()}, "bias"),
        ({"pre_scale": torch.empty(9)}, "pre_scale"),
        ({"residual": torch.empty(1, 2, 2, 9)}, "residual"),
        ({"stride": (2, 2)}, "out"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    arguments = {"x": torch.empty(1, 4, 4, 8), "weight": torch.empty(3, 3, 8), "bias": None, **options}
    arguments.setdefault("out", torch.empty(1, 2, 2, 8))
    with pytest.raises(ValueError, match=message):
        depthwise(**arguments)
