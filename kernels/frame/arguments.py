"""What a kernel takes in one argument: groups of run-time numbers, pointers and jit functions.

Triton takes a named tuple apart, and passes each field as if it were an argument of its own; a field that is None or a
function is a constant. One level deep: Triton 3.6 loses the constants in a tuple within a tuple.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

import torch

from optgraph.ir.quant import Quant
from optgraph.ir.values import Act, Window
from optgraph.kernels.frame.operands import row_stride, strides4
from optgraph.kernels.frame.rows import positions

OURS = "optgraph.kernels.jit"


class Jit(NamedTuple):
    """A jit function by name: launchers work where Triton is not."""

    module: str
    name: str

    def load(self) -> Any:
        """The function. Imports Triton."""
        return getattr(import_module(self.module), self.name)

    def __str__(self) -> str:
        return f"{self.module}:{self.name}"


def ours(name: str) -> Jit:
    """A kernel of ours: the function of that name in the file of that name."""
    return Jit(f"{OURS}.{name}", name)


class Scalar(NamedTuple):
    """A function of a block of float32 and two numbers, the first of which may be one a channel: what an Act is to a
    kernel."""

    fn: Jit
    a: float | torch.Tensor
    b: float

    @classmethod
    def of(cls, act: Act, slope: torch.Tensor | None = None) -> Scalar:
        """slope: of a PRelu. Raises ValueError for one without slopes."""
        if act.sloped and slope is None:
            raise ValueError("a PRelu needs a slope a channel")
        a = slope if act.sloped and slope is not None else act.a
        return cls(Jit(f"{OURS}.activations", act.kind), a, act.b)


class Image(NamedTuple):
    """Sizes of [N, H, W, C] and its strides, in elements. That of the channels is a constant of the kernel."""

    height: int
    width: int
    stride_n: int
    stride_h: int
    stride_w: int

    @classmethod
    def of(cls, x: torch.Tensor) -> Image:
        return cls(x.shape[1], x.shape[2], *strides4(x)[:3])

    @property
    def strides(self) -> tuple[int, int, int]:
        return self[2:]


class Sliding(NamedTuple):
    """A Window: pads at the end show in the size of the output only."""

    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    top: int
    left: int
    dilation_h: int
    dilation_w: int

    @classmethod
    def of(cls, window: Window) -> Sliding:
        return cls(*window.kernel, *window.stride, *window.pads[:2], *window.dilation)


class Output(NamedTuple):
    """How the output is walked: pixels in all, or positions of strips; its height, width, channels (of one group), and
    the distance from pixel to pixel. And the channels (of one group) that it is made of."""

    pixels: int
    height: int
    width: int
    columns: int
    row: int
    channels: int

    @classmethod
    def of(cls, out: torch.Tensor, channels: int, columns: int = 0, strip: int = 1) -> Output:
        """columns: those of a group, by default all. Raises ValueError if the pixels of `out` are not dense."""
        batch, height, width, every = out.shape
        visited = positions(batch, height, width, strip)
        return cls(visited, height, width, columns or every, row_stride(out, "out"), channels)


class Pre(NamedTuple):
    """act(x * scale + shift), rounded to the grid `onto` if there is one; scale and shift are float32 [C] or None. Of
    int8, x is (q - zero) * step; else these two are None. Where nothing is to be done all are: Triton 3.6 cannot ask of
    a tuple that has a None in it whether it is None itself."""

    scale: torch.Tensor | None
    shift: torch.Tensor | None
    act: Jit | None
    a: float | torch.Tensor | None
    b: float | None
    step: float | None = None
    zero: int | None = None
    onto_scale: float | None = None
    onto_inverse: float | None = None
    onto_zero: int | None = None


class Grid(NamedTuple):
    """A Quant: its scale, one over that, and its zero; all None where there is none."""

    scale: float | None = None
    inverse: float | None = None
    zero: int | None = None

    @classmethod
    def of(cls, quant: Quant | None) -> Grid:
        # One over what is next to nothing is too large for a float32, and then any large number does.
        return cls() if quant is None else cls(quant.scale, min(1 / quant.scale, 3e38), quant.zero)


class Grids(NamedTuple):
    """Two grids that numbers are rounded to, one after the other; the first may be None, or both."""

    first_scale: float | None
    first_inverse: float | None
    first_zero: int | None
    last_scale: float | None
    last_inverse: float | None
    last_zero: int | None

    @classmethod
    def of(cls, quants: Sequence[Quant]) -> Grids:
        first, last = (None, None, *quants)[-2:]
        return cls(*Grid.of(first), *Grid.of(last))


class End(NamedTuple):
    """post(before(act(y + bias)) + residual), each rounded to its grids if there are some. bias is float32 [C] or None,
    residual dense pixels or None, on a grid if it is int8. An `a` may be float32 [C]. Of sums of integers y is (sum +
    start) * scale: int32 [C], or a row for each kind of pixel, or None; and float32 [C]."""

    bias: torch.Tensor | None
    act: Jit
    a: float | torch.Tensor
    b: float
    residual: torch.Tensor | None
    residual_row: int
    post: Jit
    post_a: float | torch.Tensor
    post_b: float
    start: torch.Tensor | None = None
    scale: torch.Tensor | None = None
    before_scale: float | None = None
    before_inverse: float | None = None
    before_zero: int | None = None
    residual_step: float | None = None
    residual_zero: int | None = None
    first_scale: float | None = None
    first_inverse: float | None = None
    first_zero: int | None = None
    last_scale: float | None = None
    last_inverse: float | None = None
    last_zero: int | None = None
