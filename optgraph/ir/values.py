"""What a graph says of its tensors: shapes and dtypes, scalar functions, runs of channels.

Tensors are NCHW in meaning throughout, as in ONNX; memory is NHWC, which only lowering knows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from optgraph.base.errors import ModelError

if TYPE_CHECKING:
    import torch

Dim = int | str
Shape = tuple[Dim, ...]
Pair = tuple[int, int]
Pads = tuple[int, int, int, int]  # top, left, bottom, right

BATCH = "N"  # the one symbolic dimension a graph may keep


@dataclass(frozen=True)
class Value:
    """Shape and dtype (a numpy name) of a tensor. A dimension is an int or a symbol such as 'N'."""

    shape: Shape
    dtype: str = "float32"


ACTS = ("identity", "relu", "clip", "leaky_relu", "sigmoid", "silu", "tanh", "hard_sigmoid", "hard_swish")


@dataclass(frozen=True)
class Act:
    """A scalar function. `a` and `b` are its parameters.

    identity | relu | clip: min(max(x, a), b) | leaky_relu: x if x >= 0 else a*x | sigmoid | silu: x*sigmoid(x)
    | tanh | hard_sigmoid: clip(a*x + b, 0, 1) | hard_swish: x * clip(x/6 + 1/2, 0, 1)
    """

    kind: str = "identity"
    a: float = 0.0
    b: float = 0.0

    def __bool__(self) -> bool:
        return self.kind != "identity"

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """The function elementwise, in the dtype of `x`; NaN stays NaN."""
        from torch.nn import functional as F  # here, for a graph alone needs no torch

        match self.kind:
            case "identity":
                return x
            case "relu":
                return F.relu(x)
            case "clip":
                return x.clamp(self.a, self.b)
            case "leaky_relu":
                return F.leaky_relu(x, self.a)
            case "sigmoid":
                return x.sigmoid()
            case "silu":
                return F.silu(x)
            case "tanh":
                return x.tanh()
            case "hard_sigmoid":
                return (self.a * x + self.b).clamp(0, 1)
            case "hard_swish":
                return x * (x / 6 + 0.5).clamp(0, 1)
            case _:
                raise ModelError(f"unknown activation '{self.kind}'")


IDENTITY = Act()
RELU = Act("relu")


@dataclass(frozen=True)
class Segment:
    """A run of output channels of a merged convolution, with an output of its own."""

    channels: int
    act: Act = IDENTITY


def window_size(size: Dim, kernel: int, stride: int, before: int, after: int, dilation: int) -> Dim:
    """Output length of a sliding window along one axis. Raises ModelError if the window does not fit."""
    if isinstance(size, str):
        raise ModelError(f"a sliding window over the symbolic dimension '{size}': fix height and width (--input-shape)")
    if min(kernel, stride, dilation) < 1:
        raise ModelError(f"a window of {kernel} with stride {stride} and dilation {dilation}: all must be at least 1")
    length = (size + before + after - (kernel - 1) * dilation - 1) // stride + 1
    if length < 1:
        raise ModelError(f"a window of {kernel} (dilation {dilation}) does not fit {size} + {before} + {after} pixels")
    return length


@dataclass(frozen=True)
class Window:
    """A window that slides over an image: (height, width) of each, pads as (top, left, bottom, right).

    The same object in an operator, a plan, a launcher and its reference.
    """

    kernel: Pair
    stride: Pair = (1, 1)
    pads: Pads = (0, 0, 0, 0)
    dilation: Pair = (1, 1)

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1]

    def over(self, height: Dim, width: Dim) -> tuple[Dim, Dim]:
        """Height and width of what comes out. Raises ModelError if the window does not fit."""
        top, left, bottom, right = self.pads
        return (
            window_size(height, self.kernel[0], self.stride[0], top, bottom, self.dilation[0]),
            window_size(width, self.kernel[1], self.stride[1], left, right, self.dilation[1]),
        )


def broadcast(a: Shape, b: Shape) -> Shape:
    """The ONNX (numpy) multidirectional broadcast of two shapes. Raises ModelError where they disagree."""
    out: list[Dim] = []
    for i in range(max(len(a), len(b))):
        p = a[len(a) - 1 - i] if i < len(a) else 1
        q = b[len(b) - 1 - i] if i < len(b) else 1
        if p != q and p != 1 and q != 1:
            raise ModelError(f"shapes {list(a)} and {list(b)} do not broadcast")
        out.append(q if p == 1 else p)
    return tuple(reversed(out))


def reshaped(source: Shape, target: Shape) -> Shape:
    """Resolves the -1 of `target`, with at most one symbol carried through. Raises ModelError if it cannot."""
    symbols = [d for d in source if isinstance(d, str)]
    for d in target:
        if isinstance(d, str):
            if d not in symbols:
                raise ModelError(f"cannot reshape {list(source)} to {list(target)}")
            symbols.remove(d)
    have = math.prod(d for d in source if isinstance(d, int))
    want = math.prod(d for d in target if isinstance(d, int) and d != -1)
    if -1 not in target:
        if symbols or have != want:
            raise ModelError(f"cannot reshape {list(source)} to {list(target)}")
        return target
    rest: Dim
    if not symbols and want and have % want == 0:
        rest = have // want
    elif len(symbols) == 1 and have == want:
        rest = symbols[0]
    else:
        raise ModelError(f"cannot reshape {list(source)} to {list(target)}")
    return tuple(rest if d == -1 else d for d in target)


def channels_last(shape: Sequence[Dim]) -> bool:
    """Whether a tensor of this shape is likely to hold images as N×H×W×C: its channels, 1 or 3, come last."""
    return len(shape) == 4 and shape[3] in (1, 3) and shape[1] not in (1, 3)
