"""The pointwise kernel beside its samples: its workspace, mixed types, NaN, packing, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from optgraph.base.devices import SM_90
from optgraph.ir.values import IDENTITY, RELU, Act
from optgraph.kernels import pointwise
from optgraph.kernels.frame.ends import Epilogue
from optgraph.kernels.frame.gemm import Gemm
from optgraph.kernels.frame.launch import targeting
from optgraph.kernels.frame.split import workspace_bytes
from optgraph.kernels.frame.tile import Tile
from tests.support.kernel_checks import outside, poisoned

BOXED = Tile(32, 16, 16, box=(1, 32, 1))  # loads through the copy engine


def test_a_workspace_serves_launch_after_launch() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(1, 4, 4, 64), torch.randn(64, 32)
    out = poisoned(1, 4, 4, 32)
    launch = pointwise.pointwise(x, weight, [out], tile=Tile(16, 16, 16, splits=4))
    assert launch.workspace == 4 * (1024 + 2 * 4 * 16 * 16) and not launch.bound
    workspace = torch.zeros(launch.workspace, dtype=torch.uint8)
    bound = launch.with_workspace(workspace)
    assert bound.bound and bound.variant == launch.variant
    expected = pointwise.reference(x, weight, [out])[0]
    for _ in range(2):
        out.fill_(math.nan)
        bound()
        assert (out - expected).norm() < 1e-6 * math.sqrt(64) * expected.norm()
        assert outside(out).isnan().all()
        assert not workspace.view(torch.int32)[:1024].any(), "counters are left at zero"


def test_more_tiles_than_counters_are_not_split() -> None:
    """As at a batch far above those that tiles are chosen for: what has no counter would count on a partial sum."""
    x, weight = torch.empty(1025, 1, 16, 64), torch.empty(64, 16)
    out = poisoned(1025, 1, 16, 16)
    launch = pointwise.pointwise(x, weight, [out], tile=Tile(16, 16, 16, splits=4))
    assert launch.grid == (1025, 1) and not launch.constants["SPLIT"] and launch.bound
    assert pointwise.pointwise(x[:1024], weight, [out[:1024]], tile=Tile(16, 16, 16, splits=4)).grid == (1024, 4)
    with pytest.raises(ValueError, match="1025 output tiles are split"):
        workspace_bytes(1025, 4, 16, 16)


def test_boxes_are_refused_where_they_cannot_be() -> None:
    out = poisoned(1, 4, 4, 8)
    for x, weight, options in (
        (torch.zeros(1, 4, 4, 8), torch.zeros(8, 8), {"stride": (2, 2)}),
        (torch.zeros(1, 8, 4, 4).permute(0, 2, 3, 1), torch.zeros(8, 8), {}),
        (torch.zeros(1, 4, 4, 9)[..., :8], torch.zeros(8, 8), {}),
        (torch.zeros(1, 4, 4, 8), torch.zeros(8, 8).half(), {}),
    ):
        target = out[:, ::2, ::2].clone() if options else out
        with pytest.raises(ValueError, match="on 16 bytes"):
            pointwise.pointwise(x, weight, [target], tile=BOXED, **options)


@pytest.mark.parametrize(
    ("sizes", "taken"),
    [((128,), True), ((104, 24), True), ((100, 28), False), ((8, 100, 20), False), ((4, 124), False)],
)
def test_segments_that_begin_off_16_bytes_do_not_come_by_the_copy_engine(sizes: tuple[int, ...], taken: bool) -> None:
    """Though x, weight and the sum of the columns are all on 16 bytes."""
    x, weight = torch.empty(1, 35, 35, 256).half(), torch.empty(256, sum(sizes)).half()
    outs = [torch.empty(1, 35, 35, size).half() for size in sizes]
    with targeting(SM_90):
        launch = pointwise.pointwise(x, weight, outs)
        assert isinstance(launch.problem, Gemm) and launch.problem.tma == taken
        assert taken or (not launch.constants["TMA"] and launch.arguments["weight"] is weight)
        if not taken:
            with pytest.raises(ValueError, match="all segments on 16 bytes"):
                pointwise.pointwise(x, weight, outs, tile=Tile(64, 64, 64, box=(1, 64, 1)))


def test_input_and_output_types_may_differ_from_the_weight() -> None:
    x, weight = torch.randn(1, 4, 5, 24), torch.randn(24, 16).half()
    out = poisoned(1, 4, 5, 16)
    pointwise.pointwise(x, weight, [out])()
    assert outside(out).isnan().all()
    expected = pointwise.reference(x.half(), weight, [out])[0]
    torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-4)


def test_nan_stays_nan() -> None:
    x = torch.ones(1, 2, 2, 4)
    x[0, 1, 1, 2] = math.nan
    out = torch.zeros(1, 2, 2, 3)
    pointwise.pointwise(x, torch.ones(4, 3), [out], acts=[RELU])()
    assert out[0, 1, 1].isnan().all()
    assert not out[0, 0].isnan().any()


def test_pack_and_reference_are_onnx_convolutions() -> None:
    x, weights = torch.randn(2, 6, 5, 9).double(), [torch.randn(c, 9, 1, 1).double() for c in (4, 7)]
    outs = [torch.empty(2, 3, 3, 4), torch.empty(2, 3, 3, 7)]
    results = pointwise.reference(x, pointwise.pack(*weights), outs, stride=(2, 2), acts=[RELU, IDENTITY])
    convolved = [F.conv2d(x.permute(0, 3, 1, 2), w, stride=2).permute(0, 2, 3, 1) for w in weights]
    torch.testing.assert_close(results[0], convolved[0].relu())
    torch.testing.assert_close(results[1], convolved[1])


def test_bad_arguments_are_refused() -> None:
    x, weight, bias = torch.zeros(1, 4, 4, 8), torch.zeros(8, 6), torch.zeros(6)
    out = torch.zeros(1, 4, 4, 6)

    def refuses(message: str, *args: Any, **options: Any) -> None:
        with pytest.raises(ValueError, match=message):
            pointwise.pointwise(*args, **options)

    refuses("outs.0. has shape", x, weight, [torch.zeros(1, 4, 3, 6)])
    refuses("dense pixels", x, weight, [torch.zeros(1, 6, 4, 4).permute(0, 2, 3, 1)])
    refuses("dense pixels", x, weight, [torch.zeros(1, 4, 8, 6)[:, :, :4]])
    refuses("weight has shape", x, weight.t().contiguous(), [out])
    refuses("not contiguous", x, torch.zeros(6, 8).t(), [out])
    refuses("bias is", x, weight, [out], after=Epilogue(bias.half()))
    refuses("residual has shape", x, weight, [out], after=Epilogue(residual=torch.zeros(1, 4, 4, 5)))
    halves, residual = [torch.zeros(1, 4, 4, 3), torch.zeros(1, 4, 4, 3)], Epilogue(bias, residual=out)
    refuses("single output", x, weight, halves, acts=[RELU, RELU], after=residual)
    refuses("must be equal", x, weight, halves, acts=[RELU, Act("clip", 0.0, 0.5)])
    refuses("activations for", x, weight, halves, acts=[RELU])
    refuses("activations in acts", x, weight, halves, after=Epilogue(act=RELU))
    refuses("expected 1 to 4", x, weight, [])
