"""The conv2d kernel beside its samples: NaN, packing, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from optgraph.ir.values import RELU, Act, Window
from optgraph.kernels import conv2d
from optgraph.kernels.frame.ends import Epilogue, Prologue
from optgraph.kernels.frame.launch import Launch
from optgraph.kernels.frame.sample import Operands, image
from optgraph.kernels.frame.tile import Tile
from optgraph.kernels.frame.variant import Block
from tests.support.kernel_checks import CPU

BARE = Window((3, 3))
AROUND = Window((3, 3), pads=(1, 1, 1, 1))


@pytest.mark.parametrize(
    ("window", "options"),
    [
        (Window((3, 3), stride=(2, 2)), {}),
        (Window((3, 3), dilation=(2, 2)), {}),
        (Window((3, 3)), {"before": Prologue(act=Act("clip", 0.1, 0.5))}),
        (Window((3, 3)), {"groups": 2}),
        (Window((3, 3)), {"x": image(1, 9, 9, 32, planes=True)}),
    ],
)
def test_boxes_are_refused_where_they_cannot_be(window: Window, options: dict[str, Any]) -> None:
    sample = conv2d.sample((1, 9, 9, 32), 32, window, tile=Tile(16, 16, 16, box=(1, 4, 4)), **options)
    with pytest.raises(ValueError, match="a tile with a box"):
        Operands(conv2d.CONV2D, sample.typed("fp32"), CPU).launch()


@pytest.mark.parametrize("kernel", [(1, 3), (3, 1), (3, 3)])
def test_the_copy_engine_is_given_strides_that_cover_what_lies_inside(kernel: tuple[int, int]) -> None:
    window = Window(kernel, pads=(kernel[0] // 2, kernel[1] // 2) * 2)
    sample = conv2d.sample((3, 9, 9, 32), 32, window, tile=Tile(16, 16, 16, box=(1, 16, 1)))
    block = Operands(conv2d.CONV2D, sample.typed("fp16"), CPU).launch().arguments["x"]
    assert isinstance(block, Block)
    pairs = zip(block.strides, block.shape[1:], block.strides[1:], strict=False)
    assert all(outer >= size * inner for outer, size, inner in pairs)


def test_more_tiles_than_counters_are_not_split() -> None:
    """As at a batch far above those that tiles are chosen for."""
    tile = Tile(16, 16, 16, splits=4)

    def launch(groups: int, rows: int) -> Launch:
        x, weight = torch.empty(1, 1, 16 * rows, 64 * groups), torch.empty(groups, 1, 1, 64, 16)
        out = torch.empty(1, 1, 16 * rows, 16 * groups)
        return conv2d.conv2d(x, weight, out, window=Window((1, 1)), groups=groups, tile=tile)

    for groups, rows in ((1, 1024), (2, 512)):
        split = launch(groups, rows)
        assert split.constants["SPLIT"] and split.workspace and split.grid == (rows, groups, 4)
        whole = launch(groups, rows + 1)
        assert not whole.constants["SPLIT"] and not whole.workspace and whole.grid == (rows + 1, groups, 1)


def test_nan_stays_nan_and_stays_in_its_window() -> None:
    x = torch.ones(1, 5, 5, 16)
    x[0, 0, 0, 3] = math.nan
    out = torch.zeros(1, 5, 5, 4)
    conv2d.conv2d(x, torch.ones(1, 3, 3, 16, 4), out, window=AROUND, after=Epilogue(act=RELU))()
    assert out[0, :2, :2].isnan().all()
    assert not out[0, 2:].isnan().any() and not out[0, :, 2:].isnan().any()


@pytest.mark.parametrize("groups", [1, 3])
def test_pack_and_reference_are_an_onnx_convolution(groups: int) -> None:
    x, weight, bias = torch.randn(2, 6, 7, 9).double(), torch.randn(12, 9 // groups, 3, 2).double(), torch.randn(12)
    window, packed = Window((3, 2), (2, 1), (1, 0, 1, 0)), conv2d.pack(weight, groups)
    y = conv2d.reference(x, packed, x, window=window, groups=groups, after=Epilogue(bias))
    convolved = F.conv2d(x.permute(0, 3, 1, 2), weight, bias.double(), (2, 1), (1, 0), 1, groups)
    torch.testing.assert_close(y, convolved.permute(0, 2, 3, 1))


def test_bad_arguments_are_refused() -> None:
    x, weight, out = torch.zeros(1, 6, 6, 8), torch.zeros(1, 3, 3, 8, 4), torch.zeros(1, 4, 4, 4)

    def refuses(message: str, *args: Any, window: Window = BARE, **options: Any) -> None:
        with pytest.raises(ValueError, match=message):
            conv2d.conv2d(*args, window=window, **options)

    refuses("out has shape", x, weight, out, window=AROUND)
    refuses("out needs", x, weight, torch.zeros(1, 4, 4, 4).permute(0, 3, 1, 2))
    refuses("x has shape", x[..., :7], weight, out)
    refuses("weight has shape", x, weight[0], out)
    refuses("weight has shape", x, weight, out, groups=2)
    refuses("not contiguous", x, weight.transpose(1, 2), out)
    refuses("bias has shape", x, weight, out, after=Epilogue(torch.zeros(5)))
    refuses("residual has shape", x, weight, out, after=Epilogue(residual=torch.zeros(1, 4, 4, 5)))
