"""Max and average pooling over windows.

    out = post(act(pool(pre_act(x)) + bias) + residual)

The maximum or the mean of the kh*kw window at (oh*sh - top, ow*sw - left). Padding is -inf to a maximum; an average
divides by kh*kw (count_include_pad) or by the number of positions inside the image. A ceil_mode pool is one with larger
pads at the end. x [N, H, W, C] with any strides, out and residual dense pixels: a concat slice is fine.

Bound by bytes. A NaN in a window is a NaN out, also of a maximum.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from optgraph.ir.values import Window
from optgraph.kernels.frame.arguments import ours
from optgraph.kernels.frame.ends import Epilogue, Prologue
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.launch import Launch
from optgraph.kernels.frame.operands import check_window
from optgraph.kernels.frame.tile import Tile
from optgraph.kernels.frame.windowed import windowed
from optgraph.kernels.frame.work import Read, Work

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
    return windowed(
        "pool",
        ours("pool"),
        {"x": x, "out": out},
        {"MAX": kind == "max", "INCLUDE_PAD": count_include_pad, "CLEAR": before.moves(neutral)},
        window,
        before,
        after,
        Work((Read(x, window, size), *after.reads), (out,), after.vectors, terms=window.taps),
        tile,
    )


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
    return after.reference(y.permute(0, 2, 3, 1))


def _windows(image: torch.Tensor, window: Window) -> torch.Tensor:
    """[kh*kw, N, C, Ho, Wo]: the image as each tap of the window sees it."""
    (kh, kw), (sh, sw), (dh, dw) = window.kernel, window.stride, window.dilation
    last_h, last_w = image.shape[2] - dh * (kh - 1), image.shape[3] - dw * (kw - 1)
    taps = [(h, w) for h in range(0, dh * kh, dh) for w in range(0, dw * kw, dw)]
    return torch.stack([image[:, :, h : h + last_h : sh, w : w + last_w : sw] for h, w in taps])


POOL = Kernel(pool, reference)
