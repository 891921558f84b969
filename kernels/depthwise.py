"""Depthwise convolution: each channel has a k×k filter of its own.

    y[n, oh, ow, c] = sum over (i, j) of weight[i, j, c] * pre(x)[n, oh*sh - top + i*dh, ow*sw - left + j*dw, c]
    out = post(act(y + bias) + residual)

x [N, H, W, C] with any strides, weight [kh, kw, C] contiguous (`pack`), out and residual dense pixels.

Bound by bytes: 2*kh*kw FLOPs for one value in and one out. But instructions come near: hence, where windows of few taps
overlap, up to four rows of the output a program. It loads a row of the input once, for each of them that it is part of:
of 3x3, 18 values instead of 36, and each weight once. Otherwise a program computes a patch of STRIP rows, so that the
kh*kw reads of an input value hit L1 after the first. Padding costs an extra select only where the prologue turns a zero
into something else. In fp16, if nothing comes before but a ReLU, the taps of a row are added in fp16, two channels an
instruction, and the rows in float32: a row's sum must not leave fp16.

An int8 weight is laid out as a float one. Four taps of a row are multiplied by one instruction, exactly, from registers
that have the four bytes of a channel (`jit/bytes.py`). Positions outside x are the zero of its grid, so that what this
adds to a sum is the same everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F

from optgraph.ir.quant import Quant
from optgraph.ir.values import IDENTITY, PRELU, RELU, Act, Window
from optgraph.kernels.frame.ends import Epilogue, Prologue, check_operands
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.launch import Launch
from optgraph.kernels.frame.operands import check_contiguous, check_window
from optgraph.kernels.frame.rowwise import windowed
from optgraph.kernels.frame.sample import STORED, Sample, image, sums, weight, window_sample
from optgraph.kernels.frame.tile import Tile
from optgraph.kernels.frame.work import Read, Work

_HALF_TAPS = 7
# Of a tap, in those before a product. In fp16 one takes 2.8 instructions where a program has four rows of a 3x3, 3.9 in
# a 5x5 (`python -m benchmarks.loops`); of int8 a third more, for what is stored is rounded to a grid.
EFFORT, EFFORT_INT8 = 0.7, 0.95


def depthwise(
    x: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor,
    *,
    window: Window,
    before: Prologue = Prologue(),
    after: Epilogue = Epilogue(),
    tile: Tile | None = None,
) -> Launch:
    """One launch of a depthwise convolution."""
    size = check_window(x, out, window, x.shape[3])
    check_contiguous(weight, (*window.kernel, x.shape[3]), "weight")
    before.check(x.shape[3])
    integers = check_operands(x, weight, before, after)
    outside = before.quant.zero if integers and before.quant else 0
    before = Prologue() if integers else before
    weights = {"weight": weight, **before.vectors, **after.vectors}
    work = Work(
        (Read(x, window, size), *after.reads),
        (out,),
        weights,
        cuda_cores=True,
        effort=EFFORT_INT8 if integers else EFFORT,
    )
    tensors = {"x": x, "weight": weight, "outside": outside, "out": out}
    constants = {"INTEGERS": integers, "HALF": in_half(x, weight, window, before), "CLEAR": before.moves(0.0)}
    return windowed("depthwise", tensors, constants, window, before, after, work, tile)


def in_half(x: torch.Tensor, depthwise: torch.Tensor, window: Window, before: Prologue) -> bool:
    """Whether the taps of a row are added in fp16: few enough for its rounding to be lost in that of what is stored."""
    plain = not before.affine and before.act in (IDENTITY, RELU)
    return plain and x.dtype == depthwise.dtype == torch.float16 and window.kernel[1] <= _HALF_TAPS


def pack(weight: torch.Tensor) -> torch.Tensor:
    """ONNX weight [C, 1, kh, kw] as [kh, kw, C]."""
    return weight.squeeze(1).permute(1, 2, 0).contiguous()


def reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor,
    *,
    window: Window,
    before: Prologue = Prologue(),
    after: Epilogue = Epilogue(),
) -> torch.Tensor:
    """The same in float64; `out` is not read."""
    top, left, bottom, right = window.pads
    integers, zero = weight.dtype == torch.int8, before.quant.zero if before.quant else 0
    values = x.double() if integers else before.reference(x)
    image = F.pad(values.permute(0, 3, 1, 2), (left, right, top, bottom), value=zero if integers else 0.0)
    filters = weight.double().permute(2, 0, 1).unsqueeze(1)
    y = F.conv2d(image, filters, stride=window.stride, dilation=window.dilation, groups=x.shape[3])
    return after.reference(y.permute(0, 2, 3, 1), out)


def sample(shape: tuple[int, int, int, int], window: Window, *, integers: bool = False, **arguments: Any) -> Sample:
    """A call on x of `shape`; arguments as `window_sample` takes them. integers: x and weight are int8."""
    matrix = weight(*window.kernel, shape[3], dtype="int8" if integers else STORED)
    if integers:
        given: Epilogue = arguments.get("after", Epilogue())
        arguments |= {"x": arguments.get("x", image(*shape, dtype="int8")), "after": sums(given, shape[3])}
    return window_sample(shape, shape[3], window, weight=matrix, **arguments)


def samples() -> Iterator[tuple[str, Sample]]:
    """Odd sizes, windows of every kind, all ends."""
    small, around = Tile(32, 16), Window((3, 3), pads=(1, 1, 1, 1))
    shapes = (1, 7, 9, 37), (3, 13, 5, 3), (1, 3, 3, 73), (2, 5, 6, 1)
    for shape, planes, tile in product(shapes, [False, True], [None, small, Tile(64, 8)]):
        x = image(*shape, planes=planes)
        yield "odd sizes", sample(shape, around, x=x, after=Epilogue(True, RELU), tile=tile)
    all_pads = (0, 0, 0, 0), (0, 0, 1, 1), (2, 1, 0, 3)
    for kernel, pads, stride in product([(3, 3), (5, 5), (1, 7)], all_pads, [(1, 1), (2, 2), (2, 1)]):
        yield "windows", sample((2, 9, 8, 5), Window(kernel, stride, pads), tile=Tile(64, 4))
    for kernel in ((1, 1), (7, 1), (3, 9), (2, 11)):
        yield "unusual kernels", sample((1, 8, 12, 5), Window(kernel, pads=(1, 1, 1, 1)))
    yield "dilation", sample((1, 9, 11, 5), Window((3, 3), (1, 1), (2, 3, 2, 3), (2, 3)), tile=small)
    for scale, shift, act in product([None, True], [None, True], [IDENTITY, RELU, Act("sigmoid")]):
        before, clip = Prologue(scale, shift, act), Act("clip", -1.0, 1.0)
        for after in (Epilogue(act=clip), Epilogue(True, clip, residual=True, post=RELU)):
            yield "ends", sample((2, 4, 5, 19), around, before=before, after=after, tile=small)
    yield "slopes", sample((2, 4, 5, 19), around, after=Epilogue(True, PRELU), tile=small)
    x = image(1, 5, 5, 6, dtype="float32", planes=True)
    yield "float32 input", sample((1, 5, 5, 6), Window((3, 3)), x=x, after=Epilogue())
    before, after = Prologue(True, True, RELU), Epilogue(True, residual=True, post=RELU)
    shared = Window((3, 3), pads=(2, 1, 1, 0)), Window((3, 3), (2, 2), (1, 1, 1, 1)), Window((7, 1), pads=(3, 0, 3, 0))
    for rows, window, plain in product([2, 4], shared, [False, True]):
        ends = {"before": Prologue(act=RELU)} if plain else {"before": before, "after": after}
        yield "rows", sample((2, 9, 8, 19), window, **ends, tile=Tile(16, 8, rows=rows))
    grid, whole = Quant(0.0625, -7), Epilogue(True, RELU, quants=(Quant(300.0, -128),))
    options: dict[str, Any] = {"integers": True, "stored": "int8", "before": Prologue(quant=grid)}
    for shape, tile in product(((1, 7, 9, 37), (3, 5, 5, 48)), [None, Tile(16, 8, rows=4)]):
        yield "integers", sample(shape, around, after=whole, tile=tile, **options)
    yield "integers, two words a row", sample((2, 4, 9, 21), Window((2, 7), pads=(1, 3, 0, 3)), after=whole, **options)
    x, after = (
        image(2, 9, 8, 73, dtype="int8", beside=2),
        Epilogue(True, RELU, True, RELU, None, (Quant(200.0, 9),), grid),
    )
    yield "integers, all ends", sample((2, 9, 8, 73), Window((5, 5), (2, 2), (2, 1, 2, 3)), x=x, after=after, **options)
    after = Epilogue(True, quants=(Quant(0.25, 3),))
    options = {"before": Prologue(None, None, RELU, grid), "stored": "int8", "after": after}
    yield "int8 and a float weight", sample((2, 9, 8, 73), around, x=x, **options)


DEPTHWISE = Kernel(depthwise, reference, samples)
