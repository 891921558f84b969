"""Max and average pooling over windows.

    out = grid(post(act(pool(pre_act(x)) + bias) + residual))

The maximum or the mean of the kh*kw window at (oh*sh - top, ow*sw - left). Padding is -inf to a maximum; an average
divides by kh*kw (count_include_pad) or by the number of positions inside the image. A ceil_mode pool is one with larger
pads at the end. x [N, H, W, C] with any strides, out and residual dense pixels: a concat slice is fine.

Integers of a grid are pooled as they are, if nothing comes before, two an instruction (`jit/bytes.py`), and then what
they stand for is told of the result. If that lies on their own grid and nothing else is done, it never is: the maximum
is one of them, and a mean is rounded as it is. Beyond the edge a maximum takes the nearest pixel, which is in the
window, instead of what a mask would give.

Bound by bytes. Where windows of few taps overlap, a program reduces up to four rows of the output, and of each row of
the input what these share: once. A NaN in a window is a NaN out, also of a maximum.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F

from optgraph.ir.quant import Quant
from optgraph.ir.values import IDENTITY, PRELU, RELU, Act, Window
from optgraph.kernels.frame.ends import Epilogue, Prologue, check_grid
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.launch import Launch, target_of
from optgraph.kernels.frame.operands import check_window
from optgraph.kernels.frame.rowwise import windowed
from optgraph.kernels.frame.sample import Sample, image, window_sample
from optgraph.kernels.frame.tile import Tile
from optgraph.kernels.frame.work import Read, Work

_TAPS = 257  # of a window whose sums of bytes an int16 without a sign holds
_NEUTRAL = {"average": 0.0, "max": float("-inf")}  # what padding is to each kind


def pool(
    x: torch.Tensor,
    out: torch.Tensor,
    *,
    kind: str,
    window: Window,
    count_include_pad: bool = False,
    before: Prologue = Prologue(),
    after: Epilogue = Epilogue(),
    tile: Tile | None = None,
) -> Launch:
    """One launch of a window pool of `kind` "max" or "average", whose prologue is an activation alone."""
    neutral = neutral_to(kind)
    size = check_window(x, out, window, x.shape[3])
    check_prologue(before)
    check_grid(x.dtype, before.quant, "x")
    grid = before.quant
    whole = grid is not None and not before.act and window.taps <= _TAPS
    work = Work((Read(x, window, size), *after.reads), (out,), after.vectors, terms=window.taps)
    constants = {
        "MAX": kind == "max",
        "INCLUDE_PAD": count_include_pad,
        "INTEGERS": whole,
        "KEPT": grid is not None and whole and after == Epilogue(quants=(grid,)),
        "NEAR": whole and kind == "max" and _meets(x, out, window),
        "PAIRS": whole and target_of(x).device.early,
        "CLEAR": before.moves(neutral) and not whole,
    }
    return windowed("pool", {"x": x, "out": out}, constants, window, before, after, work, tile)


def _meets(x: torch.Tensor, out: torch.Tensor, window: Window) -> bool:
    """Whether every window has a pixel of x in it, and that which is nearest to any position of it."""
    axes = zip(x.shape[1:3], out.shape[1:3], window.kernel, window.stride, window.pads[:2], strict=True)
    overlaps = all(pad < taps and (count - 1) * stride - pad < size for size, count, taps, stride, pad in axes)
    return overlaps and window.dilation == (1, 1)


def neutral_to(kind: str) -> float:
    """What changes no pool of that kind. Raises ValueError if there is none such."""
    if kind not in _NEUTRAL:
        raise ValueError(f"kind is {kind!r}, expected one of {tuple(_NEUTRAL)}")
    return _NEUTRAL[kind]


def check_prologue(before: Prologue) -> None:
    """Raises ValueError for more than an activation."""
    if before.affine:
        raise ValueError("a pool takes no scale or shift before it, only an activation")


def reference(
    x: torch.Tensor,
    out: torch.Tensor,
    *,
    kind: str,
    window: Window,
    count_include_pad: bool = False,
    before: Prologue = Prologue(),
    after: Epilogue = Epilogue(),
) -> torch.Tensor:
    """The same in float64, window tap by window tap; `out` is not read."""
    image = before.reference(x).permute(0, 3, 1, 2)
    top, left, bottom, right = window.pads
    padding = (left, right, top, bottom)
    taps = _windows(F.pad(image, padding, value=neutral_to(kind)), window)
    if kind == "max":
        y = taps.amax(0)
    elif count_include_pad:
        y = taps.mean(0)
    else:
        counts = _windows(F.pad(torch.ones_like(image), padding), window).sum(0)
        y = taps.sum(0) / counts.clamp(min=1)
    return after.reference(y.permute(0, 2, 3, 1), out)


def _windows(image: torch.Tensor, window: Window) -> torch.Tensor:
    """[kh*kw, N, C, Ho, Wo]: the image as each tap of the window sees it."""
    (kh, kw), (sh, sw), (dh, dw) = window.kernel, window.stride, window.dilation
    last_h, last_w = image.shape[2] - dh * (kh - 1), image.shape[3] - dw * (kw - 1)
    taps = [(h, w) for h in range(0, dh * kh, dh) for w in range(0, dw * kw, dw)]
    return torch.stack([image[:, :, h : h + last_h : sh, w : w + last_w : sw] for h, w in taps])


def samples() -> Iterator[tuple[str, Sample]]:
    """Every kind of pool over odd sizes and windows of every kind, with all ends."""
    for kind in ("max", "average"):
        yield from _samples(kind=kind)
    yield from _samples(kind="average", count_include_pad=True)


def _samples(**kind: Any) -> Iterator[tuple[str, Sample]]:
    small, around = Tile(32, 16), Window((3, 3), pads=(1, 1, 1, 1))

    def sample(shape: tuple[int, int, int, int], window: Window, after: Epilogue = Epilogue(), **more: Any) -> Sample:
        return window_sample(shape, shape[3], window, after=after, **kind, **more)

    shapes = (1, 7, 9, 37), (3, 13, 5, 3), (1, 3, 3, 73), (2, 5, 6, 1)
    for shape, tile in product(shapes, [None, small, Tile(64, 8)]):
        yield "odd sizes", sample(shape, around, x=image(*shape, planes=tile is small), tile=tile)
    all_pads = (0, 0, 0, 0), (0, 0, 1, 1), (1, 2, 0, 1)
    for kernel, pads, stride in product([(3, 3), (2, 5)], all_pads, [(1, 1), (3, 2)]):
        yield "windows", sample((2, 9, 8, 5), Window(kernel, stride, pads), tile=Tile(64, 4))
    for kernel in ((1, 1), (8, 8), (1, 11), (9, 1)):
        yield "unusual kernels", sample((1, 9, 11, 5), Window(kernel))
    yield "dilation", sample((1, 9, 11, 5), Window((3, 3), (1, 1), (2, 1, 0, 3), (2, 3)), tile=small)
    yield "slopes", sample((2, 4, 5, 19), around, Epilogue(True, PRELU), tile=small)
    for act in (IDENTITY, RELU, Act("sigmoid")):
        clip = Act("clip", -1.0, 1.0)
        for after in (Epilogue(True, clip), Epilogue(None, clip, residual=True, post=RELU)):
            yield "ends", sample((2, 4, 5, 19), around, after, before=Prologue(act=act), tile=small)
    for rows, window in product([2, 4], (Window((3, 3), pads=(1, 1, 1, 0)), Window((3, 3), (2, 2)), Window((2, 1)))):
        yield "rows", sample((2, 9, 8, 19), window, Epilogue(True, residual=True), tile=Tile(16, 8, rows=rows))
    grid, coarse, x = Quant(0.0625, -7), Quant(0.125, 3), image(2, 9, 8, 37, dtype="int8", beside=16)
    ends, window = Epilogue(None, RELU, True, RELU, None, (coarse,), grid), Window((3, 3), (2, 2), (1, 1, 1, 1))
    for act, after, tile in product([IDENTITY, RELU], [Epilogue(quants=(coarse,)), ends], [None, small]):
        options: dict[str, Any] = {"before": Prologue(act=act, quant=grid), "x": x, "stored": "int8", "tile": tile}
        yield "int8", sample((2, 9, 8, 37), window, after, **options)
    within: dict[str, Any] = {"before": Prologue(quant=grid), "after": Epilogue(quants=(grid,)), "stored": "int8"}
    apart, long = Window((3, 3), pads=(2, 2, 2, 2), dilation=(2, 2)), Window((9, 29), pads=(4, 14, 4, 14))
    for few, tile in ((Window((2, 1), (2, 3), (2, 2, 2, 2)), small), (window, None), (around, Tile(16, 8, rows=4))):
        yield f"int8, the {kind['kind']} on its grid", sample((2, 9, 8, 37), few, x=x, tile=tile, **within)
    for few in (apart, long):
        yield "int8, other windows", sample((1, 4, 5, 6), few, x=image(1, 4, 5, 6, dtype="int8"), **within)
    options = {"before": Prologue(quant=grid), "x": x, "tile": Tile(16, 8, rows=2)}
    yield "int8 to numbers", sample((2, 9, 8, 37), around, **options)


POOL = Kernel(pool, reference, samples)
