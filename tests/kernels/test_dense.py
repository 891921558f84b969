"""The dense kernel beside its samples: packing, its tile, and what it refuses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from optgraph.base.devices import SM_90
from optgraph.kernels.dense import DENSE, dense, pack, reference, sample
from optgraph.kernels.frame.sample import image
from optgraph.tune.layers import Layer


def test_reference() -> None:
    x, weight, bias = torch.randn(3, 5).double(), torch.randn(4, 5).double(), torch.randn(4).double()
    torch.testing.assert_close(reference(x, pack(weight), x, bias=bias), F.linear(x, weight, bias))


def test_batch_one_reads_with_many_programs() -> None:
    launch = Layer(DENSE, sample(image(1, 2048), 1000).typed("fp16")).dry(SM_90)
    assert launch.programs > 60
    assert launch.tile.block_m == 16


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(2, 5), (6, 7), (2, 7)], "weight"),
        ([(2, 5), (5, 7), (2, 8)], "out"),
        ([(2, 5, 1), (5, 7), (2, 7)], "x"),
        ([(2, 5), (5, 7, 1), (2, 7)], "weight"),
    ],
)
def test_bad_shapes(shapes: list[tuple[int, ...]], message: str) -> None:
    x, weight, out = (torch.empty(shape) for shape in shapes)
    with pytest.raises(ValueError, match=message):
        dense(x, weight, out)


def test_bad_arguments() -> None:
    x, weight = torch.empty(2, 5), torch.empty(5, 7)
    with pytest.raises(ValueError, match="contiguous"):
        dense(x, weight, torch.empty(7, 2).t())
    with pytest.raises(ValueError, match="bias"):
        dense(x, weight, torch.empty(2, 7), bias=torch.empty(6))
    with pytest.raises(ValueError, match="weight"):
        dense(x, torch.empty(7, 5).t(), torch.empty(2, 7))
