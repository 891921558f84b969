"""The elementwise kernel in the interpreter against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from optgraph.ir.values import IDENTITY, RELU, Act
from optgraph.kernels.elementwise import elementwise, reference
from optgraph.kernels.frame.choice import Tile
from tests.support.kernel_checks import DTYPES, check, image, poisoned, sliced

SMALL = Tile(16, 16)
SHAPES = [(1, 7, 9, 37), (3, 13, 5, 3), (3, 1, 1, 73), (2, 4, 1, 1), (1, 3, 3, 24)]


@pytest.mark.parametrize("tile", [None, SMALL, Tile(4, 128)])
@pytest.mark.parametrize("nchw", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_copy_into_a_channel_slice(shape: tuple[int, ...], nchw: bool, tile: Tile | None) -> None:
    x, out = image(*shape, nchw=nchw), poisoned(*shape)
    elementwise(x, out, tile=tile)()
    assert torch.equal(out, x)
    check(out, x.double())


@pytest.mark.parametrize("source", [*DTYPES, torch.bfloat16])
@pytest.mark.parametrize("target", DTYPES)
def test_cast(source: torch.dtype, target: torch.dtype) -> None:
    x, out = image(2, 5, 7, 19).to(source), poisoned(2, 5, 7, 19, dtype=target)
    elementwise(x, out)()
    assert torch.equal(out, x.to(target))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("combine", ["add", "mul"])
@pytest.mark.parametrize("other", ["none", "dense", "slice", "nchw", "broadcast"])
@pytest.mark.parametrize("affine", [(), ("scale",), ("shift",), ("scale", "shift")])
def test_every_combination(dtype: torch.dtype, combine: str, other: str, affine: tuple[str, ...]) -> None:
    shape = (3, 5, 7, 37)
    operand = {
        "none": None,
        "dense": image(*shape, dtype=dtype),
        "slice": sliced(*shape, dtype=dtype),
        "nchw": image(*shape, dtype=dtype, nchw=True),
        "broadcast": sliced(3, 1, 1, 37, dtype=dtype),
    }[other]
    x, out = image(*shape, dtype=dtype), poisoned(*shape, dtype=dtype)
    vectors = {name: torch.randn(37) for name in affine}
    act, post = (Act("sigmoid"), IDENTITY) if combine == "mul" else (Act("clip", -0.5, 1.0), RELU)
    options: dict[str, Any] = {"act": act, "post": post, "other": operand, "combine": combine, **vectors}
    elementwise(x, out, tile=SMALL, **options)()
    check(out, reference(x, out, **options))


def test_nan_survives_relu() -> None:
    x, out = image(1, 2, 2, 5), poisoned(1, 2, 2, 5)
    x[0, 1, 0, 3] = torch.nan
    elementwise(x, out, act=RELU, post=RELU)()
    assert torch.equal(out.isnan(), x.isnan())


def test_in_place() -> None:
    x = image(1, 5, 5, 20)
    expected = (x + 1).relu()
    elementwise(x, x, shift=torch.ones(20), act=RELU, tile=SMALL)()
    torch.testing.assert_close(x, expected)


def test_reference() -> None:
    x, other, scale, shift = image(2, 3, 3, 4), image(2, 1, 1, 4), torch.randn(4), torch.randn(4)
    expected = torch.relu(torch.sigmoid(x.double() * scale + shift) * other)
    actual = reference(x, x, scale=scale, shift=shift, act=Act("sigmoid"), other=other, combine="mul", post=RELU)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": torch.empty(1, 4, 4, 9)}, "out"),
        ({"out": torch.empty(1, 8, 4, 4).permute(0, 2, 3, 1)}, "out"),
        ({"out": torch.empty(1, 4, 8, 8)[:, :, :4]}, "out"),
        ({"other": torch.empty(1, 1, 4, 8)}, "other"),
        ({"scale": torch.empty(7)}, "scale"),
        ({"shift": torch.empty(8, dtype=torch.float16)}, "shift"),
        ({"combine": "sub"}, "combine"),
        ({"x": torch.empty(4, 4, 8)}, "N, H, W, C"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"x": torch.empty(1, 4, 4, 8), "out": torch.empty(2, 4, 4, 8)[:1], **options}
    with pytest.raises(ValueError, match=message):
        elementwise(**arguments)
