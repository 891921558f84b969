"""The pooling kernels in the interpreter against float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from optgraph.ir.values import RELU, Act
from optgraph.kernels.frame.choice import Tile
from optgraph.kernels.frame.operands import output_size
from optgraph.kernels.pool import global_pool, global_reference, global_tile, pool, reference
from tests.support.kernel_checks import DTYPES, check, image, poisoned, sliced

SMALL = Tile(32, 16)
KINDS = [{"kind": "max"}, {"kind": "average"}, {"kind": "average", "count_include_pad": True}]


def run(
    shape: tuple[int, int, int, int],
    kernel: tuple[int, int],
    *,
    dtype: torch.dtype = torch.float32,
    nchw: bool = False,
    bias: bool = False,
    residual: bool = False,
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
    x, out = image(*shape, dtype=dtype, nchw=nchw), poisoned(n, out_h, out_w, c, dtype=dtype)
    options |= {
        "kernel": kernel,
        "bias": torch.randn(c) if bias else None,
        "residual": sliced(n, out_h, out_w, c, dtype=dtype) if residual else None,
    }
    pool(x, out, tile=tile, **options)()
    check(out, reference(x, out, **options), kernel[0] * kernel[1])


@pytest.mark.parametrize("tile", [None, SMALL, Tile(64, 8)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 7, 9, 37), (3, 13, 5, 3), (1, 3, 3, 73), (2, 5, 6, 1)])
def test_odd_sizes(shape: tuple[int, int, int, int], kind: dict[str, Any], tile: Tile | None) -> None:
    run(shape, (3, 3), pads=(1, 1, 1, 1), tile=tile, nchw=tile is SMALL, **kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stride", [(1, 1), (3, 2)])
@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (0, 0, 1, 1), (1, 2, 0, 1)])
@pytest.mark.parametrize("kernel", [(3, 3), (2, 5)])
def test_windows(kernel: tuple[int, int], pads: tuple[int, ...], stride: tuple[int, int], kind: dict[str, Any]) -> None:
    run((2, 9, 8, 5), kernel, pads=pads, stride=stride, tile=Tile(64, 4), **kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kernel", [(1, 1), (8, 8), (1, 11), (9, 1)])
def test_unusual_kernels(kernel: tuple[int, int], kind: dict[str, Any]) -> None:
    run((1, 9, 11, 5), kernel, **kind)


@pytest.mark.parametrize("kind", KINDS)
def test_dilation(kind: dict[str, Any]) -> None:
    run((1, 9, 11, 5), (3, 3), pads=(2, 1, 0, 3), dilation=(2, 3), tile=SMALL, **kind)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pre_act", [Act(), RELU, Act("sigmoid")])
@pytest.mark.parametrize(("bias", "residual"), [(True, False), (False, True)])
def test_prologue_and_epilogue(
    dtype: torch.dtype, kind: dict[str, Any], pre_act: Act, bias: bool, residual: bool
) -> None:
    run(
        (2, 4, 5, 19), (3, 3), pads=(1, 1, 1, 1), dtype=dtype, bias=bias, residual=residual,
        pre_act=pre_act, act=Act("clip", -1.0, 1.0), post=RELU if residual else Act(), tile=SMALL, **kind,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["max", "average"])
def test_ceil_mode(kind: str) -> None:
    """A ceil_mode pool is one with longer pads at the end."""
    x, out = image(2, 8, 10, 5), poisoned(2, 4, 5, 5)
    pool(x, out, kind=kind, kernel=(3, 3), stride=(2, 2), pads=(0, 0, 1, 1))()
    function = F.max_pool2d if kind == "max" else F.avg_pool2d
    expected = function(x.double().permute(0, 3, 1, 2), 3, 2, ceil_mode=True)
    check(out, expected.permute(0, 2, 3, 1), 9)


def test_max_of_negative_values_ignores_padding() -> None:
    x, out = -image(1, 3, 3, 4).abs() - 1, poisoned(1, 3, 3, 4)
    pool(x, out, kind="max", kernel=(3, 3), pads=(1, 1, 1, 1))()
    assert (out <= -1).all()


@pytest.mark.parametrize("kind", ["max", "average"])
def test_nan_reaches_only_its_windows(kind: str) -> None:
    x, out = image(1, 5, 5, 2), poisoned(1, 3, 3, 2)
    x[0, 0, 0, 1] = math.nan
    pool(x, out, kind=kind, kernel=(3, 3), act=RELU)()
    assert out.isnan().nonzero().tolist() == [[0, 0, 0, 1]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stride", [1, 2])
def test_reference(kind: dict[str, Any], stride: int) -> None:
    x = image(2, 6, 7, 4)
    planes = x.double().permute(0, 3, 1, 2)
    if kind["kind"] == "max":
        expected = F.max_pool2d(planes, 3, stride, 1)
    else:
        expected = F.avg_pool2d(planes, 3, stride, 1, count_include_pad=kind.get("count_include_pad", False))
    actual = reference(x, x, kernel=(3, 3), stride=(stride, stride), pads=(1, 1, 1, 1), **kind)
    torch.testing.assert_close(actual, expected.permute(0, 2, 3, 1))


@pytest.mark.parametrize("height", [5, 8])
@pytest.mark.parametrize("strip", [2, 4])
def test_strips(monkeypatch: pytest.MonkeyPatch, height: int, strip: int) -> None:
    monkeypatch.setattr("optgraph.kernels.pool.strip_rows", lambda *_: strip)
    run((3, height, 7, 5), (3, 3), kind="average", pads=(1, 1, 1, 1), residual=True, tile=SMALL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": torch.empty(1, 4, 4, 8)}, "out"),
        ({"out": torch.empty(1, 8, 2, 2).permute(0, 2, 3, 1)}, "out"),
        ({"kind": "min"}, "kind"),
        ({"bias": torch.empty(7)}, "bias"),
        ({"residual": torch.empty(1, 2, 2, 9)}, "residual"),
        ({"stride": (2, 2)}, "out"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    arguments = {"out": torch.empty(1, 2, 2, 8), "kind": "max", "kernel": (3, 3), **options}
    with pytest.raises(ValueError, match=message):
        pool(torch.empty(1, 4, 4, 8), **arguments)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["max", "average"])
@pytest.mark.parametrize("tile", [None, Tile(8, 16), Tile(64, 32)])
@pytest.mark.parametrize("shape", [(1, 7, 9, 37), (3, 13, 5, 3), (1, 8, 8, 73), (2, 1, 1, 5)])
def test_global(dtype: torch.dtype, kind: str, tile: Tile | None, shape: tuple[int, int, int, int]) -> None:
    x = image(*shape, dtype=dtype, nchw=tile is None)
    out = poisoned(shape[0], 1, 1, shape[3], dtype=dtype)
    global_pool(x, out, kind=kind, act=Act("sigmoid"), tile=tile)()
    check(out, global_reference(x, out, kind=kind, act=Act("sigmoid")), shape[1] * shape[2])


@pytest.mark.parametrize("kind", ["max", "average"])
@pytest.mark.parametrize("affine", [(), ("pre_scale",), ("pre_shift",), ("pre_scale", "pre_shift")])
@pytest.mark.parametrize("pre_act", [Act(), RELU, Act("sigmoid")])
def test_global_prologue(kind: str, affine: tuple[str, ...], pre_act: Act) -> None:
    x, out = image(2, 5, 7, 19), poisoned(2, 1, 1, 19)
    options: dict[str, Any] = {"kind": kind, "pre_act": pre_act, "act": Act("tanh")}
    options |= {name: torch.randn(19) for name in affine}
    global_pool(x, out, tile=Tile(16, 8), **options)()
    check(out, global_reference(x, out, **options), 35)


@pytest.mark.parametrize("kind", ["max", "average"])
def test_global_nan(kind: str) -> None:
    x, out = image(2, 5, 5, 6), poisoned(2, 1, 1, 6)
    x[1, 2, 3, 4] = math.nan
    global_pool(x, out, kind=kind, tile=Tile(8, 4))()
    assert out.isnan().nonzero().tolist() == [[1, 0, 0, 4]]


def test_global_occupies_the_device_at_batch_one() -> None:
    tile = global_tile(1, 64, 2048, "sm_90")
    assert 2048 // tile.block_n >= 100
    assert global_tile(256, 64, 2048, "sm_90").block_n == 128


def test_global_bad_arguments() -> None:
    with pytest.raises(ValueError, match="out"):
        global_pool(torch.empty(2, 4, 4, 8), torch.empty(2, 8), kind="max")
    with pytest.raises(ValueError, match="pre_scale"):
        global_pool(torch.empty(2, 4, 4, 8), torch.empty(2, 1, 1, 8), kind="max", pre_scale=torch.empty(7))
    with pytest.raises(ValueError, match="kind"):
        global_pool(torch.empty(2, 4, 4, 8), torch.empty(2, 1, 1, 8), kind="sum")
