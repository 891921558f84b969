"""What a graph says of its tensors: shapes and dtypes, scalar functions, runs of channels.

Tensors are NCHW in meaning throughout, as in ONNX; memory is NHWC, which only lowering knows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from optgraph.base.errors import FIX_INPUT, ModelError
from optgraph.ir.quant import Quant

if TYPE_CHECKING:
    import torch

Dim = int | str
Shape = tuple[Dim, ...]
Pair = tuple[int, int]
Pads = tuple[int, int, int, int]  # top, left, bottom, right

BATCH = "N"  # the one symbol that a graph may keep, alone or times a number: '9*N'
_MULTIPLE = re.compile(rf"(?:([1-9]\d*)\*)?{BATCH}")


@dataclass(frozen=True)
class Value:
    """Shape and dtype (a numpy name) of a tensor. A dimension is an int, 'N' or '9*N', or a symbol of another name for
    one that only data tells."""

    shape: Shape
    dtype: str = "float32"


# A scalar function by name -> what it is of x and its parameters a and b.
ACTS = {
    "identity": "x",
    "relu": "max(x, 0)",
    "clip": "min(max(x, a), b)",
    "leaky_relu": "x if x >= 0 else a*x",
    "prelu": "x if x >= 0 else slope*x, a slope a channel",
    "sigmoid": "1 / (1 + exp(-x))",
    "silu": "x * sigmoid(x)",
    "tanh": "tanh(x)",
    "hard_sigmoid": "clip(a*x + b, 0, 1)",
    "hard_swish": "x * clip(x/6 + 1/2, 0, 1)",
    "elu": "b*x if x > 0 else a * (exp(x) - 1)",
    "celu": "x if x > 0 else a * (exp(x/a) - 1)",
    "gelu": "x/2 * (1 + erf(x/sqrt(2)))",
    "gelu_tanh": "x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))",
    "softplus": "log(1 + exp(x))",
    "mish": "x * tanh(softplus(x))",
    "softsign": "x / (1 + |x|)",
    "threshold": "x if x > a else 0",
    "power": "x^a",
    "abs": "|x|",
    "neg": "-x",
    "reciprocal": "1 / x",
    "sqrt": "sqrt(x)",
    "exp": "exp(x)",
    "log": "log(x)",
    "erf": "erf(x)",
    "sin": "sin(x)",
    "cos": "cos(x)",
    "sign": "-1, 0 or 1",
    "floor": "floor(x)",
    "ceil": "ceil(x)",
    "round": "the nearest integer, of two the even one",
}


@dataclass(frozen=True)
class Act:
    """A scalar function of ACTS. `a` and `b` are its parameters. A PRelu's slopes lie beside it: in a slot of the
    operator, in an argument of the kernel."""

    kind: str = "identity"
    a: float = 0.0
    b: float = 0.0

    def __bool__(self) -> bool:
        return self.kind != "identity"

    @property
    def sloped(self) -> bool:
        """Whether it is a PRelu, which needs slopes."""
        return self.kind == "prelu"

    def apply(self, x: torch.Tensor, slope: torch.Tensor | None = None) -> torch.Tensor:
        """The function elementwise, in the dtype of `x`; NaN stays NaN.

        slope: what 'prelu' alone reads, shaped to broadcast to `x`.
        """
        if self.kind not in ACTS:
            raise ModelError(f"unknown activation '{self.kind}'")
        if not self.sloped:
            return _functions()[self.kind](x, self.a, self.b)
        if slope is None:
            raise ModelError("a PRelu has no slopes")
        return x.where(x >= 0, slope * x)


def _functions() -> dict[str, Callable[[torch.Tensor, float, float], torch.Tensor]]:
    """Each function in torch, which is imported here: a graph alone needs none."""
    import torch
    from torch.nn import functional as F

    return {
        "identity": lambda x, a, b: x,
        "relu": lambda x, a, b: F.relu(x),
        "clip": lambda x, a, b: x.clamp(a, b),
        "leaky_relu": lambda x, a, b: F.leaky_relu(x, a),
        "sigmoid": lambda x, a, b: x.sigmoid(),
        "silu": lambda x, a, b: F.silu(x),
        "tanh": lambda x, a, b: x.tanh(),
        "hard_sigmoid": lambda x, a, b: (a * x + b).clamp(0, 1),
        "hard_swish": lambda x, a, b: x * (x / 6 + 0.5).clamp(0, 1),
        "elu": lambda x, a, b: torch.where(x > 0, b * x, a * x.clamp(max=0).expm1()),
        "celu": lambda x, a, b: torch.where(x > 0, x, a * (x.clamp(max=0) / a).expm1()),
        "gelu": lambda x, a, b: F.gelu(x),
        "gelu_tanh": lambda x, a, b: F.gelu(x, approximate="tanh"),
        "softplus": lambda x, a, b: x.clamp(min=0) + (-x.abs()).exp().log1p(),
        "mish": lambda x, a, b: F.mish(x),
        "softsign": lambda x, a, b: F.softsign(x),
        "threshold": lambda x, a, b: x.where(~(x <= a), torch.zeros_like(x)),
        "power": lambda x, a, b: x.pow(a),
        "abs": lambda x, a, b: x.abs(),
        "neg": lambda x, a, b: -x,
        "reciprocal": lambda x, a, b: x.reciprocal(),
        "sqrt": lambda x, a, b: x.sqrt(),
        "exp": lambda x, a, b: x.exp(),
        "log": lambda x, a, b: x.log(),
        "erf": lambda x, a, b: x.erf(),
        "sin": lambda x, a, b: x.sin(),
        "cos": lambda x, a, b: x.cos(),
        "sign": lambda x, a, b: torch.where(x.isnan(), x, x.sign()),
        "floor": lambda x, a, b: x.floor(),
        "ceil": lambda x, a, b: x.ceil(),
        "round": lambda x, a, b: x.round(),
    }


IDENTITY = Act()
RELU = Act("relu")
PRELU = Act("prelu")


@dataclass(frozen=True)
class Segment:
    """A run of output channels of a merged convolution, with an output of its own, rounded to grids of its own."""

    channels: int
    act: Act = IDENTITY
    quants: tuple[Quant, ...] = ()


def window_size(size: Dim, kernel: int, stride: int, before: int, after: int, dilation: int) -> Dim:
    """Output length of a sliding window along one axis. Raises ModelError if the window does not fit."""
    if isinstance(size, str):
        raise ModelError(f"a sliding window over the symbolic dimension '{size}'", FIX_INPUT)
    if min(kernel, stride, dilation) < 1:
        raise ModelError(f"a window of {kernel} with stride {stride} and dilation {dilation}: all must be at least 1")
    length = (size + before + after - (kernel - 1) * dilation - 1) // stride + 1
    if length < 1:
        reason = f"a window of {kernel} (dilation {dilation}) does not fit {size} + {before} + {after} pixels"
        raise ModelError(reason, "give the model larger images")
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
            remedy = FIX_INPUT if isinstance(p, str) or isinstance(q, str) else ""
            raise ModelError(f"shapes {list(a)} and {list(b)} do not broadcast", remedy)
        out.append(q if p == 1 else p)
    return tuple(reversed(out))


def per_image(dim: Dim) -> int | None:
    """How many times the batch a dimension is; None for a number and for another symbol."""
    found = _MULTIPLE.fullmatch(dim) if isinstance(dim, str) else None
    return int(found[1] or 1) if found else None


def batches(factor: int) -> Dim:
    """The batch times a factor: 'N', '9*N'."""
    return 0 if factor == 0 else BATCH if factor == 1 else f"{factor}*{BATCH}"


def at(dim: Dim, batch: int) -> int:
    """A dimension's size for so many images. Raises ModelError if only data tells it."""
    factor = per_image(dim)
    if factor is not None:
        return factor * batch
    if isinstance(dim, str):
        raise ModelError(f"dimension '{dim}' is known only when it runs", FIX_INPUT)
    return dim


def volume(dims: Iterable[Dim]) -> Dim | None:
    """The product of dimensions; None if it is neither a number nor the batch times one."""
    number, symbols = _factors(dims)
    if not symbols:
        return number
    if symbols == {BATCH: 1}:
        return batches(number)
    return next(iter(symbols)) if number == 1 and symbols.total() == 1 else None


def reshaped(source: Shape, target: Shape) -> Shape:
    """Resolves the -1 of `target`, symbols carried through. Raises ModelError if it cannot."""
    have, symbols = _factors(source)
    want, taken = _factors(d for d in target if d != -1)
    rest: Dim | None = None
    if taken <= symbols:
        symbols -= taken
        if -1 not in target and not symbols and have == want:
            return target
        if -1 in target and want and have % want == 0:
            rest = volume([have // want, *symbols.elements()])
    if rest is None:
        remedy = FIX_INPUT if any(isinstance(d, str) for d in (*source, *target)) else ""
        raise ModelError(f"cannot reshape {list(source)} to {list(target)}", remedy)
    return tuple(rest if d == -1 else d for d in target)


def _factors(dims: Iterable[Dim]) -> tuple[int, Counter[str]]:
    """The product of dimensions: a number, and how often each symbol."""
    number, symbols = 1, Counter[str]()
    for d in dims:
        factor = per_image(d)
        number *= d if isinstance(d, int) else factor or 1
        if isinstance(d, str):
            symbols[BATCH if factor else d] += 1
    return number, symbols


def channels_last(shape: Sequence[Dim]) -> bool:
    """Whether a tensor of this shape is likely to hold images as N×H×W×C: its channels, 1 or 3, come last."""
    return len(shape) == 4 and shape[3] in (1, 3) and shape[1] not in (1, 3)
