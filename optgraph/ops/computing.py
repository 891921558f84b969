"""What the operators' torch references share. Torch is imported where it computes: a graph alone needs none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optgraph.ir.values import Act, Pads, Window

if TYPE_CHECKING:
    from torch import Tensor

POINTWISE = Window((1, 1))


def channels(vector: Tensor, x: Tensor) -> Tensor:
    """A vector of [C], shaped to broadcast along axis 1 of `x`."""
    return vector.reshape(-1, *[1] * (x.ndim - 2))


def activated(x: Tensor, act: Act, slope: Tensor | None) -> Tensor:
    """act(x), slope of [C] along axis 1."""
    return act.apply(x, None if slope is None else channels(slope, x))


def scaled(x: Tensor, scale: Tensor | None, shift: Tensor | None, act: Act) -> Tensor:
    """act(x * scale + shift) along axis 1."""
    if scale is not None:
        x = x * channels(scale, x)
    if shift is not None:
        x = x + channels(shift, x)
    return act.apply(x)


def padded(x: Tensor, pads: Pads, value: float = 0.0) -> Tensor:
    """Images with a margin."""
    from torch.nn import functional as F

    top, left, bottom, right = pads
    return F.pad(x, (left, right, top, bottom), value=value)


def convolve(x: Tensor, w: Tensor, b: Tensor | None, window: Window = POINTWISE, groups: int = 1) -> Tensor:
    """2-D convolution; w is [Cout, Cin/groups, kh, kw]."""
    from torch.nn import functional as F

    padding = window.pads[:2]
    if padding != window.pads[2:]:
        x, padding = padded(x, window.pads), (0, 0)
    return F.conv2d(x, w, b, window.stride, padding, window.dilation, groups)
