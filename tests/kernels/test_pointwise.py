"""The pointwise kernel in the interpreter against float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from optgraph.ir.values import IDENTITY, RELU, Act
from optgraph.kernels import pointwise
from optgraph.kernels.frame.choice import Tile

SMALL = Tile(16, 16, 16)
CLIP = Act("clip", 0.0, 0.5)


def poisoned(*shape: int, dtype: torch.dtype = torch.float32, before: int = 8, after: int = 3) -> torch.Tensor:
    """A channel slice of a wider buffer, all NaN."""
    wide = torch.full((*shape[:-1], before + shape[-1] + after), math.nan, dtype=dtype)
    return wide[..., before : before + shape[-1]]


def outside(slice_: torch.Tensor) -> torch.Tensor:
    """What surrounds the slice in its buffer."""
    base = slice_._base
    assert base is not None
    first = slice_.storage_offset()
    return torch.cat([base[..., :first], base[..., first + slice_.shape[-1] :]], dim=-1)


def check(out: torch.Tensor, expected: torch.Tensor, length: int) -> None:
    error = (out.double() - expected).norm() / expected.norm()
    bound = 2e-3 if out.dtype == torch.float16 else 1e-6 * math.sqrt(length)
    assert error < bound, f"relative error {error:.2e}, bound {bound:.2e}"
    assert outside(out).isnan().all(), "wrote outside its channel slice"


def run(
    shape: tuple[int, int, int, int],
    sizes: list[int],
    *,
    dtype: torch.dtype = torch.float32,
    nchw: bool = False,
    tile: Tile | None = None,
    **options: Any,
) -> None:
    torch.manual_seed(0)
    n, h, w, k = shape
    x = torch.randn(n, k, h, w).permute(0, 2, 3, 1) if nchw else torch.randn(shape)
    stride = options.get("stride", (1, 1))
    pixels = (n, -(-h // stride[0]), -(-w // stride[1]))
    x, weight = x.to(dtype), (torch.randn(k, sum(sizes)) / math.sqrt(k)).to(dtype)
    bias = torch.randn(sum(sizes))
    outs = [poisoned(*pixels, size, dtype=dtype, before=8 * i) for i, size in enumerate(sizes)]
    pointwise.pointwise(x, weight, bias, outs, tile=tile, **options)()
    for out, expected in zip(outs, pointwise.reference(x, weight, bias, outs, **options), strict=True):
        check(out, expected, k)


@pytest.mark.parametrize("tile", [None, SMALL, Tile(64, 32, 32)])
@pytest.mark.parametrize(
    ("shape", "size"), [((1, 7, 9, 37), 73), ((3, 13, 5, 3), 5), ((1, 1, 1, 64), 10), ((1, 5, 1, 1), 1)]
)
def test_odd_sizes(shape: tuple[int, int, int, int], size: int, tile: Tile | None) -> None:
    run(shape, [size], tile=tile, acts=[RELU])


@pytest.mark.parametrize("stride", [(2, 2), (1, 2), (3, 1)])
def test_stride(stride: tuple[int, int]) -> None:
    run((3, 7, 9, 24), [40], tile=Tile(32, 16, 16), stride=stride)


@pytest.mark.parametrize("sizes", [[64, 48], [5, 73, 8], [17, 1, 20, 3]])
@pytest.mark.parametrize("tile", [None, SMALL])
def test_segments(sizes: list[int], tile: Tile | None) -> None:
    acts = [RELU, IDENTITY, RELU, RELU][: len(sizes)]
    run((2, 5, 7, 24), sizes, tile=tile, acts=acts)
    run((2, 5, 7, 24), sizes, tile=tile, acts=[CLIP] * len(sizes))


def test_many_row_tiles_are_each_done_once() -> None:
    run((3, 13, 11, 16), [40], tile=SMALL)  # 27 row tiles: more than three groups, the last one partial


BOXED = Tile(32, 16, 16, box=(1, 32, 1))  # loads through the copy engine


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("sizes", [[72], [40, 8, 24], [16, 8, 8, 8]])
def test_boxes(sizes: list[int], dtype: torch.dtype) -> None:
    run((3, 5, 7, 40), sizes, dtype=dtype, tile=BOXED, acts=[RELU, IDENTITY, RELU, RELU][: len(sizes)])


def test_boxes_on_a_channel_slice_with_prologue_and_residual() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 5, 7, 64)[..., 8:48]  # the channels behind the slice must not be read as its own
    weight, bias, out = torch.randn(40, 24), torch.randn(24), poisoned(1, 5, 7, 24)
    options: dict[str, Any] = {"pre_scale": torch.randn(40), "pre_shift": torch.randn(40), "pre_act": RELU}
    options |= {"residual": torch.randn(1, 5, 7, 24), "post": RELU}
    pointwise.pointwise(x, weight, bias, [out], tile=BOXED, **options)()
    check(out, pointwise.reference(x, weight, bias, [out], **options)[0], 40)


@pytest.mark.parametrize("splits", [2, 4, 8])
@pytest.mark.parametrize("box", [None, (1, 16, 1)])
def test_split_depth(splits: int, box: Any) -> None:
    run((1, 5, 7, 136), [40, 24], tile=Tile(16, 16, 16, box=box, splits=splits), acts=[RELU, RELU])


def test_a_workspace_serves_launch_after_launch() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(1, 4, 4, 64), torch.randn(64, 32)
    out = poisoned(1, 4, 4, 32)
    launch = pointwise.pointwise(x, weight, None, [out], tile=Tile(16, 16, 16, splits=4))
    assert launch.workspace == 4 * (1024 + 2 * 4 * 16 * 16) and not launch.bound
    workspace = torch.zeros(launch.workspace, dtype=torch.uint8)
    bound = launch.with_workspace(workspace)
    assert bound.bound and bound.variant == launch.variant
    for _ in range(2):
        out.fill_(math.nan)
        bound()
        check(out, pointwise.reference(x, weight, None, [out])[0], 64)
        assert not workspace.view(torch.int32)[:1024].any(), "counters are left at zero"


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
            pointwise.pointwise(x, weight, None, [target], tile=BOXED, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("act", [IDENTITY, RELU, CLIP, Act("silu"), Act("leaky_relu", 0.1)])
@pytest.mark.parametrize("with_residual", [False, True])
def test_epilogue(act: Act, with_residual: bool, dtype: torch.dtype) -> None:
    residual = torch.randn(2, 5, 7, 30).to(dtype)[..., 3:24] if with_residual else None
    run((2, 5, 7, 19), [21], dtype=dtype, acts=[act], residual=residual, post=RELU if with_residual else IDENTITY)


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("act", [IDENTITY, RELU, Act("sigmoid")])
def test_prologue(scale: bool, shift: bool, act: Act) -> None:
    pre_scale, pre_shift = torch.randn(19) if scale else None, torch.randn(19) if shift else None
    run((1, 5, 7, 19), [21], tile=SMALL, pre_scale=pre_scale, pre_shift=pre_shift, pre_act=act)


@pytest.mark.parametrize("stride", [(1, 1), (2, 2)])
def test_nchw_input(stride: tuple[int, int]) -> None:
    run((3, 7, 9, 20), [24], nchw=True, stride=stride, tile=SMALL)


def test_input_and_output_types_may_differ_from_the_weight() -> None:
    x, weight = torch.randn(1, 4, 5, 24), torch.randn(24, 16).half()
    out = poisoned(1, 4, 5, 16)
    pointwise.pointwise(x, weight, None, [out])()
    assert outside(out).isnan().all()
    expected = pointwise.reference(x.half(), weight, None, [out])[0]
    torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-4)


def test_nan_stays_nan() -> None:
    x = torch.ones(1, 2, 2, 4)
    x[0, 1, 1, 2] = math.nan
    out = torch.zeros(1, 2, 2, 3)
    pointwise.pointwise(x, torch.ones(4, 3), None, [out], acts=[RELU])()
    assert out[0, 1, 1].isnan().all()
    assert not out[0, 0].isnan().any()


def test_pack_and_reference_are_onnx_convolutions() -> None:
    x, weights = torch.randn(2, 6, 5, 9).double(), [torch.randn(c, 9, 1, 1).double() for c in (4, 7)]
    outs = [torch.empty(2, 3, 3, 4), torch.empty(2, 3, 3, 7)]
    results = pointwise.reference(x, pointwise.pack(*weights), None, outs, stride=(2, 2), acts=[RELU, IDENTITY])
    convolved = [F.conv2d(x.permute(0, 3, 1, 2), w, stride=2).permute(0, 2, 3, 1) for w in weights]
    torch.testing.assert_close(results[0], convolved[0].relu())
    torch.testing.assert_close(results[1], convolved[1])


def test_bad_arguments_are_refused() -> None:
    x, weight, bias = torch.zeros(1, 4, 4, 8), torch.zeros(8, 6), torch.zeros(6)
    out = torch.zeros(1, 4, 4, 6)

    def refuses(message: str, *args: Any, **options: Any) -> None:
        with pytest.raises(ValueError, match=message):
            pointwise.pointwise(*args, **options)

    refuses("outs.0. has shape", x, weight, bias, [torch.zeros(1, 4, 3, 6)])
    refuses("dense pixels", x, weight, bias, [torch.zeros(1, 6, 4, 4).permute(0, 2, 3, 1)])
    refuses("dense pixels", x, weight, bias, [torch.zeros(1, 4, 8, 6)[:, :, :4]])
    refuses("weight has shape", x, weight.t().contiguous(), bias, [out])
    refuses("not contiguous", x, torch.zeros(6, 8).t(), bias, [out])
    refuses("bias is", x, weight, bias.half(), [out])
    refuses("residual has shape", x, weight, bias, [out], residual=torch.zeros(1, 4, 4, 5))
    halves = [torch.zeros(1, 4, 4, 3), torch.zeros(1, 4, 4, 3)]
    refuses("single output", x, weight, bias, halves, acts=[RELU, RELU], residual=halves[0])
    refuses("must be equal", x, weight, bias, halves, acts=[RELU, CLIP])
    refuses("activations for", x, weight, bias, halves, acts=[RELU])
    refuses("expected 1 to 4", x, weight, bias, [])
