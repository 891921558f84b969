"""Depthwise convolution: each channel has a k×k filter of its own.

    y[n, oh, ow, c] = sum over (i, j) of weight[i, j, c] * pre(x)[n, oh*sh - top + i*dh, ow*sw - left + j*dw, c]
    out = post(act(y + bias) + residual)

x [N, H, W, C] with any strides, weight [kh, kw, C] contiguous (`pack`), out and residual dense pixels.

Bound by bytes: 2*kh*kw FLOPs for one value in and one out. A program computes a patch of STRIP rows, so that the
kh*kw reads of an input value hit L1 after the first. The conversions to float32 make even 3x3 come near the
instruction limit, so padding costs an extra select only where the prologue turns a zero into something else.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from optgraph.ir.values import Window
from optgraph.kernels.frame.arguments import ours
from optgraph.kernels.frame.ends import Epilogue, Prologue
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.launch import Launch
from optgraph.kernels.frame.operands import check_contiguous, check_window
from optgraph.kernels.frame.tile import Tile
from optgraph.kernels.frame.windowed import windowed
from optgraph.kernels.frame.work import Read, Work


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
    return windowed(
        "depthwise",
        ours("depthwise"),
        {"x": x, "weight": weight, "out": out},
        {"CLEAR": before.moves(0.0)},
        window,
        before,
        after,
        Work(
            (Read(x, window, size), *after.reads),
            (out,),
            {"weight": weight, **before.vectors, **after.vectors},
            cuda_cores=True,
        ),
        tile,
    )


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
    image = F.pad(before.reference(x).permute(0, 3, 1, 2), (left, right, top, bottom))
    filters = weight.double().permute(2, 0, 1).unsqueeze(1)
    y = F.conv2d(image, filters, stride=window.stride, dilation=window.dilation, groups=x.shape[3])
    return after.reference(y.permute(0, 2, 3, 1))


DEPTHWISE = Kernel(depthwise, reference)
