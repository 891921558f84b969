"""Depthwise convolution feeding a 1x1 convolution: the tensor between them is never in memory.

    d[m, c]   = mid(sum_{r,s} pre(x[n, oh*sh - top + r*dh, ow*sw - left + s*dw, c]) * depthwise[r, s, c]
                    + depthwise_bias[c])                                                          m = (n, oh, ow)
    out[m, :] = post(act(d[m, :] @ weight + bias) + residual[m, :])

x is [N, H, W, C] with any strides, depthwise [kh, kw, C] (`pack_depthwise`), weight [C, Cout] (`pointwise.pack`), both
contiguous; out and residual dense pixels. Positions outside x contribute zero, the prologue notwithstanding. d is
rounded to the weight's type, as if it had been stored.

Bound: bytes on large maps, where d would cost a write and a read of the whole map; on small maps with many channels
the depthwise arithmetic, which every program repeats for its columns: hence wide blocks, and up to three of them side
by side in one program, with an accumulator each.
The depthwise sum is made in registers, straight in the layout of the product's A operand. With software pipelining the
compiler would stage all shifted loads in shared memory (more than an SM has) and spill; so the loops have one stage.
The weights and the taps of one window row, unrolled, are the loads in flight. Instructions are then what binds it, some
600 a warp for 64 channels of 64 pixels.
On sm_90 warps may be specialised instead (`jit/separable_specialised.py`), where the output has the input's size: some
make d out of shared memory, once, others multiply it with all columns. Bound: the bytes of large maps.

In fp16, if nothing comes before but a ReLU, the taps of a row are added in fp16, two channels an instruction, and the
rows in float32: so a row's sum must not leave fp16 either. Specialised warps do so by columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F

from optgraph.base.devices import SM_90, Target
from optgraph.ir.quant import Quant
from optgraph.ir.values import IDENTITY, PRELU, RELU, Act, Window
from optgraph.kernels.depthwise import DEPTHWISE, in_half
from optgraph.kernels.frame import specialised
from optgraph.kernels.frame.arguments import Image, Output, Scalar, Sliding, ours
from optgraph.kernels.frame.choice import choose
from optgraph.kernels.frame.demand import middle
from optgraph.kernels.frame.ends import Epilogue, Prologue, check_floats, check_slope, clears
from optgraph.kernels.frame.gemm import Gemm, product_constants
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.launch import Launch, describable, target_of, targeting
from optgraph.kernels.frame.operands import check_contiguous, check_vector, check_window, row_stride, strides4
from optgraph.kernels.frame.rows import patch_rows
from optgraph.kernels.frame.sample import Sample, image, vector, weight, window_sample
from optgraph.kernels.frame.specialised import Run
from optgraph.kernels.frame.tile import Box, Tile, cdiv, planned_batch
from optgraph.kernels.frame.variant import Block
from optgraph.kernels.frame.work import work_of
from optgraph.kernels.pointwise import POINTWISE


def separable(
    x: torch.Tensor,
    depthwise: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor,
    *,
    window: Window,
    depthwise_bias: torch.Tensor | None = None,
    mid: Act = IDENTITY,
    mid_slope: torch.Tensor | None = None,
    before: Prologue = Prologue(),
    after: Epilogue = Epilogue(),
    precision: str = "ieee",
    tile: Tile | None = None,
) -> Launch:
    """One launch of a depthwise convolution, an activation `mid` and a 1x1 convolution. mid_slope: float32 [C], if
    `mid` is a PRelu."""
    if depthwise.dim() != 3 or weight.dim() != 2:
        raise ValueError(f"weights have shapes {tuple(depthwise.shape)}, {tuple(weight.shape)}, expected 3-D and 2-D")
    channels, columns = x.shape[3], weight.shape[1]
    height, width = check_window(x, out, window, columns)
    check_contiguous(depthwise, (*window.kernel, channels), "depthwise")
    check_contiguous(weight, (channels, columns), "weight")
    check_vector(depthwise_bias, channels, "depthwise_bias")
    check_slope(mid_slope, channels, mid, name="mid_slope")
    before.check(channels)
    check_floats(x=x, depthwise=depthwise, weight=weight)
    after.check(tuple(out.shape), out.dtype)

    target, item = target_of(x), weight.element_size()
    images = planned_batch(x.shape[0], target)
    plain, run = not before.affine, _run(x, weight, window, before, (images, height, width))
    extent = (1, images * height * width, 1)
    problem = Gemm(extent, (columns,), channels, item, depthwise=window.taps, plain=plain, splittable=False, run=run)
    tile = tile or choose(problem, target)
    strip = patch_rows(height, width, window, tile.block_m, target)
    weights = {"depthwise": depthwise, "depthwise_bias": depthwise_bias, "weight": weight}
    ends = {"pre": before.argument(), "mid": Scalar.of(mid, mid_slope), "end": after.argument()}
    half = in_half(x, depthwise, window, before)
    taps = {"KH": window.kernel[0], "KW": window.kernel[1]}
    wide = columns, row_stride(out, "out"), after.residual_row
    product = product_constants(x, out, channels, wide, precision, tile)
    operands: dict[str, Any] = {"x": x, **weights}
    otherwise: Callable[[], Launch] | None = None
    constants: dict[str, Any]
    if tile.producers > 0 and not target.interpreted:  # no interpreter runs Gluon
        if target != SM_90 or run is None:
            raise ValueError(
                "specialised warps need sm_90, 16 bits, no affine prologue, few taps, an output of the input's size, "
                "dense images, and channels 8 divides"
            )
        run = replace(run, pixels=x.shape[0] * height * width)
        name, programs = "separable_specialised", specialised.programs(tile, run)
        size = Output.of(out, channels)
        program = specialised.program(tile, run, after.residual is not None)
        fetched = (specialised.BOX, tile.block_k)
        operands["x"] = Block(x, (run.pixels, channels), (x.stride(2), 1), fetched, swizzled=False)
        operands["weight"] = Block(weight, (channels, columns), (columns, 1), (tile.block_k, tile.block_n))
        same: dict[str, Any] = {"window": window, "before": before, "after": after, "precision": precision}
        between: dict[str, Any] = {"depthwise_bias": depthwise_bias, "mid": mid, "mid_slope": mid_slope}
        plain_tile = choose(replace(problem, run=None), target)
        otherwise = partial(separable, x, depthwise, weight, out, tile=plain_tile, **same, **between)
        # What the prologue makes of zeros beyond the channels may be no number.
        constants = {"HALF": half, "CLEAR_K": clears(mid) or before.moves(0.0), **taps}
        constants |= {"TOP": window.pads[0], "LEFT": window.pads[1], "ALIGN_N": product["ALIGN_N"]}
        constants |= specialised.constants(tile, run)
    else:
        size = Output.of(out, channels, strip=strip)
        name, programs = "separable", cdiv(size.pixels, tile.block_m) * cdiv(columns, tile.columns)
        program = problem.program(tile, after.residual is not None, window.kernel[0])
        operands |= {"image": Image.of(x), "window": Sliding.of(window)}
        ways = {"DILATED": window.dilation != (1, 1), "HALF": half, "CLEAR": before.moves(0.0), "CLEAR_K": clears(mid)}
        constants = {"STRIDE_C": strides4(x)[3], **ways, **taps, "STRIP": strip, **product}
        constants |= {"ACCUMULATORS": tile.accumulators}
    work = work_of(x, out, window, {**weights, "mid_slope": mid_slope}, (before, after), program)
    order = ("x", "depthwise", "depthwise_bias", "weight")
    arguments = {**{n: operands.pop(n) for n in order}, "out": out, **operands, **ends}
    return Launch(
        "separable", ours(name), (programs,), {**arguments, "size": size}, constants, tile, work, problem, 0, otherwise
    )


def _run(x: torch.Tensor, weight: torch.Tensor, window: Window, before: Prologue, extent: Box) -> Run | None:
    """What its specialised tiles depend on; None where plain ones alone do. extent: the output, as (images, rows,
    columns), of as many images as tiles are chosen for."""
    row = x.stride(2)
    dense = x.stride(3) == 1 and x.stride(1) == x.shape[2] * row and x.stride(0) == x.shape[1] * x.stride(1)
    fetched = describable(x, (row,)) and describable(weight, (weight.shape[1],)) and x.shape[3] % 8 == 0
    if x.dtype != weight.dtype or weight.element_size() != 2 or before.affine or not (dense and fetched):
        return None
    return Run.of(window, extent, x.shape[3], weight.shape[1])


@lru_cache(maxsize=4096)
def pays(
    shape: tuple[int, int, int, int],
    columns: int,
    *,
    window: Window,
    affine: bool,
    residual: bool,
    dtype: torch.dtype,
    target: Target,
) -> bool:
    """Whether one launch is predicted to be no slower than a depthwise convolution and a 1x1, each by itself, on images
    of `shape` (N, H, W, C). affine: whether the prologue scales or shifts.

    One launch saves writing and reading d, and the time between two launches. It loses where it makes d many times
    over, or where few programs wait for their loads, one after another. The prediction is that of the launches' tiles
    (`frame/demand.py`), as no GPU has measured it. In 32 bits the product decides, and where 16 bytes do not divide the
    channels loads do: both are left as they are.
    """
    n, height, width, channels = shape
    if dtype == torch.int8:
        return False  # no kernel does both
    if dtype.itemsize > 2 or channels % 8 or columns % 8:
        return True

    def image(*size: int) -> torch.Tensor:
        return torch.empty(n, *size, dtype=dtype, device="meta")

    def vector(size: int, present: bool) -> torch.Tensor | None:
        return torch.empty(size, device="meta") if present else None

    size = tuple(int(side) for side in window.over(height, width))
    x, d, out = image(height, width, channels), image(*size, channels), image(*size, columns)
    depthwise = torch.empty(*window.kernel, channels, dtype=dtype, device="meta")
    weight = torch.empty(channels, columns, dtype=dtype, device="meta")
    before = Prologue(vector(channels, affine))
    after = Epilogue(residual=out if residual else None)
    target = target.predicted
    with targeting(target):
        together = separable(x, depthwise, weight, out, window=window, before=before, after=after)
        first = DEPTHWISE.launcher(x, depthwise, d, window=window, before=before)
        second = POINTWISE.launcher(d, weight, (out,), after=after)
    return middle([together], target.device) <= middle([first, second], target.device)


def pack_depthwise(weight: torch.Tensor) -> torch.Tensor:
    """ONNX weight [C, 1, kh, kw] as [kh, kw, C]."""
    return weight.squeeze(1).permute(1, 2, 0).contiguous()


def reference(
    x: torch.Tensor,
    depthwise: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor,
    *,
    window: Window,
    depthwise_bias: torch.Tensor | None = None,
    mid: Act = IDENTITY,
    mid_slope: torch.Tensor | None = None,
    before: Prologue = Prologue(),
    after: Epilogue = Epilogue(),
    precision: str = "ieee",
) -> torch.Tensor:
    """The same in float64, d unrounded; `out` is not read."""
    top, left, bottom, right = window.pads
    image = F.pad(before.reference(x).permute(0, 3, 1, 2), (left, right, top, bottom))
    filters = depthwise.double().permute(2, 0, 1)[:, None]
    bias = None if depthwise_bias is None else depthwise_bias.double()
    d = F.conv2d(image, filters, bias, window.stride, 0, window.dilation, x.shape[3])
    d = Epilogue(act=mid, slope=mid_slope).reference(d.permute(0, 2, 3, 1), d)
    return after.reference(d @ weight.double(), out)


def sample(
    shape: tuple[int, int, int, int], columns: int, window: Window, *, depthwise_bias: bool = True, **arguments: Any
) -> Sample:
    """A call on x of `shape` that makes `columns` channels; arguments as `window_sample` takes them."""
    bias, mid = vector(shape[3]) if depthwise_bias else None, arguments.get("mid", IDENTITY)
    arguments |= {"mid_slope": vector(shape[3]) if mid.sloped else None}
    arguments |= {"depthwise": weight(*window.kernel, shape[3]), "weight": weight(shape[3], columns)}
    return window_sample(shape, columns, window, depthwise_bias=bias, precision="ieee", **arguments)


def samples() -> Iterator[tuple[str, Sample]]:
    """Odd sizes, windows of every kind, accumulators, all ends."""
    small, around = Tile(32, 32, 32), Window((3, 3), pads=(1, 1, 1, 1))
    shapes = (1, 7, 9, 37), (3, 13, 5, 3), (2, 1, 1, 64), (1, 4, 33, 16)
    relu, clip = Epilogue(True, RELU), Act("clip", 0.1, 0.5)  # of zero it is not zero: padding must be masked after it
    for shape, tile in product(shapes, [None, small, Tile(16, 64, 16)]):
        yield "odd sizes", sample(shape, 41, around, mid=RELU, after=relu, tile=tile)
    for kernel, stride in product([(5, 5), (1, 3), (2, 4)], [(1, 1), (2, 2), (2, 1)]):
        window, after = Window(kernel, stride, (0, 1, 2, 3)), Epilogue()
        yield "kernels", sample((2, 9, 11, 20), 24, window, depthwise_bias=False, after=after, tile=small)
    yield "dilation", sample((2, 9, 11, 20), 24, Window((3, 3), (1, 1), (2, 3, 2, 3), (2, 3)), tile=small)
    for accumulators, columns in product([2, 3], [9, 41, 48, 73]):
        tile, after = Tile(32, 16, 32, accumulators=accumulators), Epilogue(True, RELU, residual=True)
        yield "accumulators", sample((2, 5, 7, 20), columns, around, after=after, tile=tile)
    for scale, shift, act in product([None, True], [None, True], [IDENTITY, RELU, clip]):
        before = Prologue(scale, shift, act)
        yield "prologue", sample((1, 5, 7, 19), 21, around, before=before, tile=Tile(64, 32, 16))
    for mid, act, residual in product([IDENTITY, Act("clip", 0.0, 6.0)], [IDENTITY, Act("silu")], [None, True]):
        yield "epilogue", sample((1, 7, 9, 24), 21, around, mid=mid, after=Epilogue(True, act, residual, RELU))
    for after in (Epilogue(True, PRELU), Epilogue(True, RELU, residual=True, post=PRELU)):
        tile = Tile(32, 16, 16, accumulators=2)
        yield "slopes", sample((1, 5, 7, 20), 41, around, mid=PRELU, after=after, tile=tile)
    after = Epilogue(True, RELU, True, RELU, None, (Quant(0.0625, -9),), Quant(0.03125, 5), Quant(0.03125, 0))
    yield "to int8", sample((1, 7, 9, 24), 21, around, mid=RELU, after=after, tile=small, stored="int8")
    yield from (("specialised warps", sample) for sample in specialised_samples())
    x, window = image(3, 9, 7, 20, planes=True), Window((3, 3), (2, 2), (0, 0, 1, 1))
    yield "planes", sample((3, 9, 7, 20), 16, window, x=x, tile=small)


def specialised_samples() -> Iterator[Sample]:
    """Of the warp-specialised kernel on sm_90: rings that come round, chunks and columns that are not full, programs of
    several blocks, ends."""
    around = Window((3, 3), pads=(1, 1, 1, 1))
    wide, narrow = Tile(128, 128, 64, 8, producers=8), Tile(64, 128, 64, 4, producers=4)
    relu, clip = Prologue(act=RELU), Act("clip", 0.1, 0.5)
    after = Epilogue(True, RELU, residual=True, post=RELU)
    yield sample((2, 9, 11, 136), 264, around, depthwise_bias=False, before=relu, after=after, tile=wide)
    yield sample((3, 54, 53, 24), 16, around, mid=RELU, after=Epilogue(True, Act("silu")), tile=narrow)
    window = Window((5, 3), pads=(1, 0, 3, 2))
    yield sample((1, 7, 21, 40), 24, window, mid=PRELU, before=Prologue(act=clip), after=Epilogue(), tile=narrow)
    after = Epilogue(True, RELU, quants=(Quant(0.0625, -9),))
    yield sample((1, 7, 9, 72), 48, around, before=relu, after=after, tile=narrow, stored="int8")


SEPARABLE = Kernel(separable, reference, samples)
