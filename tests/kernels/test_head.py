"""The classifier's kernels in the interpreter against float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from optgraph.kernels.head import head, head_tile, pack, reference, softmax, softmax_reference, softmax_tile

from optgraph.ir.values import RELU, Act
from optgraph.kernels.frame.choice import Tile
from tests.support.kernel_checks import DTYPES, check, poisoned, sliced

# numpy, where a row is all -inf or beyond the last
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow|All-NaN)")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("tile", [None, Tile(16, 16, 32), Tile(32, 64, 16)])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 10, 64), (3, 73, 37), (37, 5, 130), (1, 1, 1), (17, 33, 3)])
def test_head(m: int, n: int, k: int, tile: Tile | None, bias: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, weight = sliced(m, k, dtype=dtype), pack(torch.randn(n, k) / math.sqrt(k)).to(dtype)
    arguments = (x, weight, torch.randn(n) if bias else None, poisoned(m, n, dtype=dtype))
    act = RELU if n > 1 else Act()
    head(*arguments, act=act, tile=tile)()
    check(arguments[-1], reference(*arguments, act=act), k)


def test_transposed_input() -> None:
    x, weight, out = torch.randn(40, 3).t(), torch.randn(40, 7), poisoned(3, 7)
    head(x, weight, None, out, tile=Tile(16, 16, 16))()
    check(out, reference(x, weight, None, out), 40)


def test_float32_input_of_a_half_network() -> None:
    x, weight, out = torch.randn(2, 20), torch.randn(20, 7).half(), poisoned(2, 7)
    head(x, weight, None, out)()
    assert (out - reference(x, weight, None, out)).norm() < 2e-3 * out.norm()


def test_head_reference() -> None:
    x, weight, bias = torch.randn(3, 5).double(), torch.randn(4, 5).double(), torch.randn(4).double()
    torch.testing.assert_close(reference(x, pack(weight), bias, x), F.linear(x, weight, bias))


def test_batch_one_reads_with_many_programs() -> None:
    tile = head_tile(1, 1000, 2048, 2, "sm_90")
    assert -(-1000 // tile.block_n) > 60
    assert tile.block_m == 16


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(2, 5), (6, 7), (2, 7)], "weight"),
        ([(2, 5), (5, 7), (2, 8)], "out"),
        ([(2, 5, 1), (5, 7), (2, 7)], "x"),
        ([(2, 5), (5, 7, 1), (2, 7)], "weight"),
    ],
)
def test_head_bad_shapes(shapes: list[tuple[int, ...]], message: str) -> None:
    x, weight, out = (torch.empty(shape) for shape in shapes)
    with pytest.raises(ValueError, match=message):
        head(x, weight, None, out)


def test_head_bad_arguments() -> None:
    x, weight = torch.empty(2, 5), torch.empty(5, 7)
    with pytest.raises(ValueError, match="contiguous"):
        head(x, weight, None, torch.empty(7, 2).t())
    with pytest.raises(ValueError, match="bias"):
        head(x, weight, torch.empty(6), torch.empty(2, 7))
    with pytest.raises(ValueError, match="weight"):
        head(x, torch.empty(7, 5).t(), None, torch.empty(2, 7))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tile", [None, Tile(1, 16), Tile(4, 64), Tile(2, 256)])
@pytest.mark.parametrize(("m", "n"), [(1, 10), (3, 73), (5, 129), (2, 1)])
def test_softmax(m: int, n: int, tile: Tile | None, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, out = sliced(m, n, dtype=dtype) * 5, poisoned(m, n, dtype=dtype)
    softmax(x, out, tile=tile)()
    check(out, softmax_reference(x, out), 10)


def test_softmax_of_a_long_row() -> None:
    x, out = torch.randn(2, 65536), poisoned(2, 65536)
    softmax(x, out)()
    check(out, softmax_reference(x, out), 65536)


@pytest.mark.parametrize("tile", [Tile(2, 64), Tile(2, 16)])
def test_softmax_is_stable(tile: Tile) -> None:
    x = torch.full((3, 40), -3e38)
    x[0, 7], x[1, 30] = 3e38, 1e4
    x[2] = torch.linspace(9e3, 1e4, 40)
    out = poisoned(3, 40)
    softmax(x, out, tile=tile)()
    check(out, softmax_reference(x, out), 10)


@pytest.mark.parametrize("tile", [Tile(2, 64), Tile(2, 16)])
def test_softmax_of_nan_and_infinity(tile: Tile) -> None:
    x = torch.zeros(4, 40)
    x[0, 5] = math.nan
    x[1] = -math.inf
    x[2, :20] = -math.inf
    out = poisoned(4, 40)
    softmax(x, out, tile=tile)()
    torch.testing.assert_close(out, torch.softmax(x, -1), equal_nan=True)


def test_softmax_tiles() -> None:
    assert softmax_tile(8, 1000, "sm_90").block_n == 1024
    assert softmax_tile(8, 65536, "sm_90").block_n == 4096


def test_softmax_bad_arguments() -> None:
    with pytest.raises(ValueError, match="out"):
        softmax(torch.empty(2, 5), torch.empty(2, 6))
    with pytest.raises(ValueError, match="2 dimensions"):
        softmax(torch.empty(2, 5, 1), torch.empty(2, 5, 1))
    with pytest.raises(ValueError, match="contiguous"):
        softmax(torch.empty(2, 5), torch.empty(5, 2).t())
