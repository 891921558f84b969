"""The elementwise kernel beside its samples: exact copies, NaN, in place, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from optgraph.ir.values import RELU, Act
from optgraph.kernels.elementwise import ELEMENTWISE, elementwise, reference, samples
from optgraph.kernels.frame.ends import Prologue
from optgraph.kernels.frame.sample import Operands, Sample
from optgraph.kernels.frame.tile import Tile
from tests.support.kernel_checks import CPU, poisoned


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("sample", [sample for what, sample in samples() if what in ("copy", "cast")])
def test_copies_and_casts_are_exact(sample: Sample, dtype: str) -> None:
    operands = Operands(ELEMENTWISE, sample.typed(dtype), CPU)
    operands.launch()()
    assert torch.equal(operands.arguments["out"], operands.arguments["x"].to(operands.arguments["out"].dtype))


def test_nan_survives_relu() -> None:
    x, out = torch.randn(1, 2, 2, 5), poisoned(1, 2, 2, 5)
    x[0, 1, 0, 3] = torch.nan
    elementwise(x, out, before=Prologue(act=RELU), post=RELU)()
    assert torch.equal(out.isnan(), x.isnan())


def test_in_place() -> None:
    x = torch.randn(1, 5, 5, 20)
    expected = (x + 1).relu()
    elementwise(x, x, before=Prologue(shift=torch.ones(20), act=RELU), tile=Tile(16, 16))()
    torch.testing.assert_close(x, expected)


def test_rows_of_a_tile_are_for_windows_alone() -> None:
    x, out = torch.randn(1, 9, 5, 8), poisoned(1, 9, 5, 8)
    elementwise(x, out, tile=Tile(8, 8, rows=2))()
    torch.testing.assert_close(out, x, rtol=0, atol=0)


def test_reference() -> None:
    x, other, scale, shift = torch.randn(2, 3, 3, 4), torch.randn(2, 1, 1, 4), torch.randn(4), torch.randn(4)
    expected = torch.relu(torch.sigmoid(x.double() * scale + shift) * other)
    before = Prologue(scale, shift, Act("sigmoid"))
    torch.testing.assert_close(reference(x, x, before=before, other=other, combine="mul", post=RELU), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": torch.empty(1, 4, 4, 9)}, "out"),
        ({"out": torch.empty(1, 8, 4, 4).permute(0, 2, 3, 1)}, "out"),
        ({"out": torch.empty(1, 4, 8, 8)[:, :, :4]}, "out"),
        ({"other": torch.empty(1, 2, 4, 8)}, "other"),
        ({"before": Prologue(torch.empty(7))}, "scale"),
        ({"before": Prologue(shift=torch.empty(8, dtype=torch.float16))}, "shift"),
        ({"combine": "mod"}, "combine"),
        ({"x": torch.empty(4, 4, 8)}, "N, H, W, C"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"x": torch.empty(1, 4, 4, 8), "out": torch.empty(2, 4, 4, 8)[:1], **options}
    with pytest.raises(ValueError, match=message):
        elementwise(**arguments)
