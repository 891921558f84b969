"""kh x kw convolution feeding a 1x1 convolution, back to back: what lies between stays on chip.

    h[m, :]   = mid(conv(pre(x), conv_weight)[m, :] + conv_bias)               rounded to weight's type, as if stored
    out[m, :] = post(act(h[m, :] @ weight[rows of h] + rest[m, :] @ weight[rows of rest] + bias) + residual[m, :])

m counts output pixels. x is [N, H, W, Cin] with channel stride 1, conv_weight [1, kh, kw, Cin, Ch] (conv2d's `pack`),
weight [Ch + Cr, Cout] (pointwise's `pack`), rest [N, Ho, Wo, Cr], out and residual dense pixels. `rest` is what else
the 1x1 reads, concatenated to h: before it (`rest_first`) or behind it; it may be absent.

A program owns BLOCK_M pixels. It computes all channels of h for them as an implicit GEMM over taps and input channels
(see conv2d), loads all of rest, and then walks the columns of the 1x1 with both as its left operand. 192 channels are
two accumulators of 128 and 64, as blocks are powers of two.

Bound: bytes, mostly those of out and residual; h, one of the two products' biggest operands, never costs any. In
return each program does all columns of its pixels, so few pixels keep few SMs busy (see `pays`).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import torch

from optgraph.base.devices import Device, Target
from optgraph.ir.quant import Quant
from optgraph.ir.values import IDENTITY, PRELU, RELU, Act, Window
from optgraph.kernels import conv2d, pointwise
from optgraph.kernels.frame.arguments import Image, Output, Scalar, Sliding, ours
from optgraph.kernels.frame.demand import middle
from optgraph.kernels.frame.ends import Epilogue, Prologue, check_floats, check_slope, clears
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.launch import Launch, target_of, targeting
from optgraph.kernels.frame.occupancy import REGISTERS, blocks_per_sm
from optgraph.kernels.frame.operands import (
    check_contiguous,
    check_shape,
    check_vector,
    check_window,
    row_stride,
    strides4,
)
from optgraph.kernels.frame.rows import alignment
from optgraph.kernels.frame.sample import Sample, image, vector, weight, window_sample
from optgraph.kernels.frame.tile import MAX_NUMEL, Tile, cdiv, ceil_pow2, planned_batch
from optgraph.kernels.frame.work import Program, Read, Work

MAX_CHANNELS = 256  # of either half of the 1x1's input, which a tile holds whole
MIN_INPUT_CHANNELS = 16  # the least depth of a tl.dot: an RGB stem would mostly multiply zeros


def bottleneck(
    x: torch.Tensor,
    conv_weight: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor,
    *,
    window: Window,
    conv_bias: torch.Tensor | None = None,
    rest: torch.Tensor | None = None,
    rest_first: bool = False,
    mid: Act = IDENTITY,
    mid_slope: torch.Tensor | None = None,
    before: Prologue = Prologue(),
    after: Epilogue = Epilogue(),
    precision: str = "ieee",
    tile: Tile | None = None,
) -> Launch:
    """One launch of a convolution, an activation `mid` and a 1x1 convolution of both h and `rest`. mid_slope: float32
    [Ch], if `mid` is a PRelu."""
    if strides4(x)[3] != 1:
        raise ValueError(f"x needs channel stride 1, got strides {x.stride()}")
    if conv_weight.dim() != 5 or weight.dim() != 2:
        raise ValueError(f"weights have shapes {tuple(conv_weight.shape)}, {tuple(weight.shape)}, expected 5-D and 2-D")
    channels, hidden, columns = x.shape[3], conv_weight.shape[4], weight.shape[1]
    height, width = check_window(x, out, window, columns)
    others = 0 if rest is None else rest.shape[-1]  # channels of rest
    if max(hidden, others) > MAX_CHANNELS:
        raise ValueError(f"{hidden} and {others} channels between the convolutions, over {MAX_CHANNELS}")
    check_contiguous(conv_weight, (1, *window.kernel, channels, hidden), "conv_weight")
    check_contiguous(weight, (hidden + others, columns), "weight")
    check_vector(conv_bias, hidden, "conv_bias")
    check_slope(mid_slope, hidden, mid, name="mid_slope")
    before.check(channels)
    check_floats(x=x, conv_weight=conv_weight, weight=weight, rest=rest)
    after.check(tuple(out.shape), out.dtype)
    if rest is not None:
        check_shape(rest, (*out.shape[:3], others), "rest")

    target, item = target_of(x), weight.element_size()
    planned = planned_batch(x.shape[0], target) * height * width
    tile = tile or bottleneck_tile(planned, channels, hidden, others, columns, item, target)
    image, size, rest_row = Image.of(x), Output.of(out, channels), 0 if rest is None else row_stride(rest, "rest")
    tensors = {"x": x, "conv_weight": conv_weight, "conv_bias": conv_bias, "rest": rest, "weight": weight, "out": out}
    ends = {"pre": before.argument(), "mid": Scalar.of(mid, mid_slope), "end": after.argument()}
    joined = Joined(hidden, others, *((others, 0) if rest_first else (0, hidden)), rest_row)
    rows = *image.strides, rest_row, size.row, after.residual_row
    aligned = alignment(channels, hidden, others, columns, *rows)
    (hidden_0, hidden_1), (rest_0, rest_1) = pieces(hidden), pieces(others) if others else (0, 0)
    halves = {"HIDDEN_0": hidden_0, "HIDDEN_1": hidden_1, "REST_0": rest_0, "REST_1": rest_1}
    reads = Read(x, window, (height, width)), *after.reads, *([] if rest is None else [Read(rest)])
    vectors = {"conv_bias": conv_bias, "mid_slope": mid_slope, **before.vectors, **after.vectors}
    program = _program(tile, window.taps, channels, hidden, others, columns, after, item, target.device)
    return Launch(
        "bottleneck",
        ours("bottleneck"),
        (cdiv(size.pixels, tile.block_m),),
        {**tensors, "image": image, "window": Sliding.of(window), **ends, "size": size, "joined": joined},
        {"PRECISION": precision, "CLEAR_K": clears(mid), "ALIGN": aligned, **tile.blocks("MNK"), **halves},
        tile,
        Work(reads, (out,), {"conv_weight": conv_weight, "weight": weight, **vectors}, program),
    )


class Joined(NamedTuple):
    """What the 1x1 reads: channels of h and of rest, the first rows of weight that are theirs, rest's row stride."""

    hidden: int
    rest: int
    hidden_start: int
    rest_start: int
    rest_row: int


def _program(
    tile: Tile,
    taps: int,
    channels: int,
    hidden: int,
    rest: int,
    columns: int,
    after: Epilogue,
    itemsize: int,
    device: Device,
) -> Program:
    """Every program fetches all weights, for all columns of its pixels, and holds all of h."""
    moved = taps * channels + rest + columns * (1 if after.residual is None else 2)
    products = taps * channels * hidden + (hidden + rest) * columns
    steps = taps * cdiv(channels, tile.block_k) + cdiv(columns, tile.block_n)
    fetched, whole = (products + tile.block_m * moved) * itemsize, sum(pieces(hidden))
    registers = min(255, REGISTERS + tile.block_m * whole // (32 * tile.num_warps))
    shared = (tile.block_m + whole) * tile.block_k * itemsize * tile.num_stages
    resident = max(1, blocks_per_sm(registers, shared, tile.num_warps, device))
    waits = cdiv(columns, tile.block_n)  # a step over the columns ends with loads of its own
    return Program(fetched, 2 * tile.block_m * products, waits=waits, resident=resident, steps=steps)


def pieces(channels: int) -> tuple[int, int]:
    """Two powers of two, or one and 0, that cover `channels` with little waste: 192 is 128 + 64, and not 256."""
    whole = max(16, ceil_pow2(channels))
    second = 16
    while second < whole // 4 and whole // 2 + second < channels:
        second *= 2
    return (whole // 2, second) if whole >= 64 and whole // 2 + second >= channels else (whole, 0)


def bottleneck_tile(m: int, k: int, hidden: int, rest: int, columns: int, itemsize: int, target: Target) -> Tile:
    """The tile for m output pixels, k input channels, `hidden` and `rest` between the convolutions, `columns` out.

    block_k walks the input channels of each tap, block_n the columns; all of `hidden` and `rest` is in every tile.
    """
    if target.interpreted:
        block_k, block_n = min(256, max(16, ceil_pow2(k))), min(512, max(16, ceil_pow2(columns)))
        widest = max(block_k, block_n, *pieces(hidden), *pieces(rest))
        return Tile(min(2048, MAX_NUMEL // widest, max(16, ceil_pow2(m))), block_n, block_k)
    if itemsize > 2:
        return Tile(32, 32, 16, 8, 2)  # it runs, and nothing is gained: see `pays`
    block_k = min(64, max(16, ceil_pow2(k)))
    much = hidden + rest > 384
    # Both take the same registers a thread. Of the small block two fit on an SM; the big one, for which shared memory
    # must be that of an A100 or H100, reads the weights half as often.
    if target.capability in ((8, 6), (8, 9)) or _block_m(m, target.device) == 64:
        return Tile(64, 32, block_k, 4, 2 if much else 3)
    return Tile(128, 32 if much else 64, block_k, 8, 2 if much else 3)


def _block_m(m: int, device: Device) -> int:
    """64 or 128 pixels a block: what gives the busiest SM fewer of them."""
    return min((128, 64), key=lambda block: cdiv(cdiv(m, block), device.sms) * block)


@lru_cache(maxsize=4096)
def pays(
    shape: tuple[int, int, int, int],
    hidden: int,
    rest: int,
    columns: int,
    *,
    window: Window,
    affine: bool,
    residual: bool,
    dtype: torch.dtype,
    target: Target,
) -> bool:
    """Whether one launch is predicted to be faster than a convolution and a 1x1, each by itself, on images of `shape`
    (N, H, W, C). affine: whether the prologue scales or shifts.

    One launch saves writing and reading h, the time between two launches, and its bytes hide behind more arithmetic. It
    loses where its few blocks, of all columns each, leave SMs idle. The prediction is that of the launches' tiles
    (`frame/demand.py`), as no GPU has measured it. In 32 bits the tile is too small to win, and where 16 bytes do not
    divide the channels it spills.
    """
    n, height, width, channels = shape
    if dtype.itemsize > 2 or any(size % 8 for size in (channels, hidden, rest, columns)):
        return False

    def image(*size: int) -> torch.Tensor:
        return torch.empty(n, *size, dtype=dtype, device="meta")

    def matrix(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    size = tuple(int(side) for side in window.over(height, width))
    x, joined, out = image(height, width, channels), image(*size, hidden + rest), image(*size, columns)
    conv_weight, weight = matrix(1, *window.kernel, channels, hidden), matrix(hidden + rest, columns)
    before = Prologue(torch.empty(channels, device="meta") if affine else None)
    after = Epilogue(residual=out if residual else None)
    beside, target = image(*size, rest) if rest else None, target.predicted
    with targeting(target):
        together = bottleneck(x, conv_weight, weight, out, window=window, rest=beside, before=before, after=after)
        first = conv2d.conv2d(x, conv_weight, joined[..., :hidden], window=window, before=before)
        second = pointwise.pointwise(joined, weight, (out,), after=after)
    return middle([together], target.device) < middle([first, second], target.device)


def reference(
    x: torch.Tensor,
    conv_weight: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor,
    *,
    window: Window,
    conv_bias: torch.Tensor | None = None,
    rest: torch.Tensor | None = None,
    rest_first: bool = False,
    mid: Act = IDENTITY,
    mid_slope: torch.Tensor | None = None,
    before: Prologue = Prologue(),
    after: Epilogue = Epilogue(),
    precision: str = "ieee",
) -> torch.Tensor:
    """The same in float64, h unrounded; of `out` only the shape is read."""
    middle = Epilogue(conv_bias, mid, slope=mid_slope)
    z = conv2d.reference(x, conv_weight, conv_weight, window=window, before=before, after=middle)
    if rest is not None:
        z = torch.cat((rest.double(), z) if rest_first else (z, rest.double()), dim=-1)
    return pointwise.reference(z, weight, [out], after=after)[0]


def sample(
    shape: tuple[int, int, int, int],
    hidden: int,
    columns: int,
    window: Window,
    *,
    rest: int = 0,
    after: Epilogue = Epilogue(bias=True),
    **arguments: Any,
) -> Sample:
    """A call on x of `shape`, `hidden` and `rest` channels between the convolutions, and `columns` out; `conv_bias` is
    there if the other bias is, slopes if `mid` has some. Arguments as `window_sample` takes them."""
    height, width = map(int, window.over(*shape[1:3]))
    operands = {
        "x": image(*shape, beside=2),
        "conv_weight": weight(1, *window.kernel, shape[3], hidden),
        "weight": weight(hidden + rest, columns),
        "conv_bias": vector(hidden) if after.bias else None,
        "mid_slope": vector(hidden) if arguments.get("mid", IDENTITY).sloped else None,
        "rest": image(shape[0], height, width, rest, beside=8) if rest else None,
    }
    return window_sample(shape, columns, window, after=after, precision="ieee", **{**operands, **arguments})


def samples() -> Iterator[tuple[str, Sample]]:
    """Odd sizes, windows of every kind, what is concatenated on either side, all ends."""
    small, around, relu = Tile(32, 32, 32), Window((3, 3), pads=(1, 1, 1, 1)), Epilogue(True, RELU)
    clip = Act("clip", 0.1, 0.5)  # of zero it is not zero: padding must be masked after it
    for shape, tile in product([(1, 7, 5, 37), (3, 5, 3, 20), (2, 1, 1, 64)], [None, small, Tile(16, 64, 16)]):
        yield "odd sizes", sample(shape, 41, 73, around, mid=RELU, after=relu, tile=tile)
    for kernel, stride in product([(3, 3), (1, 7), (7, 1), (2, 4)], [(1, 1), (2, 1)]):
        window, after = Window(kernel, stride, (0, 1, 2, 3)), Epilogue()
        yield "kernels", sample((1, 7, 9, 20), 24, 33, window, rest=17, after=after, tile=small)
    window = Window((3, 3), (2, 2), (2, 3, 2, 3), (2, 3))
    yield "dilation and stride", sample((2, 9, 11, 20), 24, 33, window, tile=small)
    for hidden, rest in ((48, 0), (48, 16), (64, 48), (7, 100), (192, 192), (256, 5)):
        for first in (False, True):
            shape = (1, 5, 7, 19)
            yield "rest", sample(shape, hidden, 70, around, rest=rest, rest_first=first, mid=RELU, tile=small)
    for scale, shift, act in product([None, True], [None, True], [IDENTITY, RELU, clip]):
        before = Prologue(scale, shift, act)
        yield "prologue", sample((1, 5, 7, 19), 21, 30, around, before=before, tile=Tile(64, 32, 16))
    for after in (Epilogue(True, PRELU), Epilogue(True, RELU, residual=True, post=PRELU)):
        yield "slopes", sample((1, 5, 6, 19), 70, 41, around, rest=20, mid=PRELU, after=after, tile=small)
    # A masked channel must not become sigmoid(0).
    for mid, act, residual in product([IDENTITY, Act("sigmoid")], [IDENTITY, Act("silu")], [None, True]):
        after = Epilogue(True, act, residual, RELU)
        yield "epilogue", sample((1, 7, 9, 24), 37, 21, around, rest=20, mid=mid, after=after, tile=small)
    after = Epilogue(True, RELU, True, RELU, None, (Quant(0.0625, -9),), Quant(0.03125, 5), Quant(0.03125, 0))
    yield "to int8", sample((1, 7, 9, 24), 37, 21, around, rest=20, after=after, tile=small, stored="int8")


BOTTLENECK = Kernel(bottleneck, reference, samples)
