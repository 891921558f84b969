"""What a launch does before and after its own work: y = grid(post(act(op(pre(x)) + bias) + residual)).

pre(x) = pre_act(x * pre_scale + pre_shift); a position outside the image is zero after it (-inf to a maximum). A
convolution may round it to a grid, which is that of x then.

int8 stands for the numbers of a grid (`optgraph/ir/quant.py`). Of an int8 x that meets no int8 weight, pre(x) begins
with these numbers. Where both are int8, op sums integers, exactly: y = (sum + start) * scale + bias, where start is
what the grid's zero adds to a sum, and scale that of x times that of the weight's column.

Both hold views where a plan has them, tensors where a launcher does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from optgraph.ir.quant import LOWEST, Quant
from optgraph.ir.values import IDENTITY, RELU, Act
from optgraph.kernels.frame.arguments import End, Grid, Grids, Pre, Scalar
from optgraph.kernels.frame.operands import check_contiguous, check_shape, check_vector, row_stride
from optgraph.kernels.frame.work import Read

_MOST = 65_504.0  # in fp16
_TERMS = (2**31 - 1) // 2**14  # of products of int8 that an int32 holds, whatever they are
GRIDS = 2  # that a launch rounds to, one after the other


@dataclass(frozen=True)
class Prologue:
    """act(x * scale + shift). scale, shift: float32 [channels of x], or None. quant: of an int8 x, its grid. onto: the
    grid that the result is rounded to, of kernels that do so."""

    scale: Any = None
    shift: Any = None
    act: Act = IDENTITY
    quant: Quant | None = None
    onto: Quant | None = None

    def __bool__(self) -> bool:
        return self.affine or bool(self.act) or self.quant is not None or self.onto is not None

    @property
    def affine(self) -> bool:
        return self.scale is not None or self.shift is not None

    def check(self, channels: int, rounds: bool = False) -> None:
        """Raises ValueError if a vector does not fit, or for a grid that the kernel does not round to."""
        if self.onto is not None and not rounds:
            raise ValueError("this kernel rounds nothing that it reads to a grid")
        check_vector(self.scale, channels, "pre_scale")
        check_vector(self.shift, channels, "pre_shift")

    def argument(self) -> Pre:
        """What the kernel takes."""
        if not self:
            return Pre(None, None, None, None, None)
        step, _, zero = Grid.of(self.quant)
        return Pre(self.scale, self.shift, *Scalar.of(self.act), step, zero, *Grid.of(self.onto))

    @property
    def vectors(self) -> Mapping[str, torch.Tensor | None]:
        return {"pre_scale": self.scale, "pre_shift": self.shift}

    @property
    def reads(self) -> tuple[Read, ...]:
        return ()

    def moves(self, value: float) -> bool:
        """Whether it makes something else of `value`, such as the zeros of a padding. An int8 has no such value."""
        if self.quant is not None:
            return True
        moved = self.shift is not None or (self.scale is not None and value != 0.0)
        return moved or self.act.apply(torch.tensor(value)).item() != value

    def reference(self, x: torch.Tensor) -> torch.Tensor:
        """In float64."""
        x = x.double() if self.quant is None else self.quant.real(x.double())
        if self.scale is not None:
            x = x * self.scale.double()
        if self.shift is not None:
            x = x + self.shift.double()
        x = self.act.apply(x)
        return x if self.onto is None else self.onto.apply(x)


def clears(act: Act) -> bool:
    """Whether `act` makes of zero what times zero is none, in fp16 either: 1/0, log 0. Then what it gives beyond the
    channels of an operand is to be cleared, for the weights there are zeros."""
    return not act.sloped and not act.apply(torch.tensor(0.0)).abs().item() <= _MOST


@dataclass(frozen=True)
class Epilogue:
    """post(act(y + bias) + residual), then the nearest numbers of `quants`, one grid after the other, GRIDS at most.

    bias: float32 [channels of the output], or None. residual: as the output; residual_quant: of an int8 one, its grid.
    before_residual: the grid that act(y + bias) is rounded to before the residual is added.
    slope: as the bias, of that one of `act` and `post` which is a PRelu; None if neither is.
    start, scale: of sums of integers, which are (y + start) * scale before the bias: int32 [channels of the output] or
    None (some kernels take a row for each kind of pixel), and float32 [channels of the output].
    An int8 output gets the integers of the last grid, NaN the lowest of them.
    """

    bias: Any = None
    act: Act = IDENTITY
    residual: Any = None
    post: Act = IDENTITY
    slope: Any = None
    quants: tuple[Quant, ...] = ()
    residual_quant: Quant | None = None
    before_residual: Quant | None = None
    start: Any = None
    scale: Any = None

    def check(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        """Raises ValueError if an operand does not fit an output of that shape and type."""
        check_vector(self.bias, shape[-1], "bias")
        check_vector(self.scale, shape[-1], "scale")
        check_slope(self.slope, shape[-1], self.act, self.post)
        if self.start is not None:
            check_contiguous(self.start, (*self.start.shape[:-1], shape[-1]), "start")
            if self.start.dtype != torch.int32 or self.scale is None:
                raise ValueError(f"start is {self.start.dtype}, expected int32 beside a scale")
        if self.residual is not None:
            check_shape(self.residual, shape, "residual")
            check_grid(self.residual.dtype, self.residual_quant, "residual")
        elif self.before_residual is not None:
            raise ValueError("a grid is given for what a residual is added to, and no residual")
        check_grids(dtype, self.quants)

    @property
    def residual_row(self) -> int:
        return 0 if self.residual is None else row_stride(self.residual, "residual")

    def argument(self) -> End:
        """What the kernel takes."""
        last = self.quants[:1]
        before_last = () if self.residual is not None or self.post else last
        first = (self.before_residual,) if self.before_residual else before_last
        act, post = (Scalar.of(apart(act, grids), self.slope) for act, grids in ((self.act, first), (self.post, last)))
        step, _, zero = Grid.of(self.residual_quant)
        before = {f"before_{name}": value for name, value in Grid.of(self.before_residual)._asdict().items()}
        more = {**before, "residual_step": step, "residual_zero": zero, **Grids.of(self.quants)._asdict()}
        return End(self.bias, *act, self.residual, self.residual_row, *post, self.start, self.scale, **more)

    @property
    def vectors(self) -> Mapping[str, torch.Tensor | None]:
        start = None if self.start is None else self.start.flatten()  # no matrix that something is multiplied with
        return {"bias": self.bias, "slope": self.slope, "start": start, "scale": self.scale}

    @property
    def reads(self) -> tuple[Read, ...]:
        return () if self.residual is None else (Read(self.residual),)

    def reference(self, y: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """In float64; of `out`, only the type is read. Of int8, the integers."""
        slope = None if self.slope is None else self.slope.double()
        y = y if self.start is None else y + self.start.double()
        y = y if self.scale is None else y * self.scale.double()
        y = self.act.apply(y if self.bias is None else y + self.bias.double(), slope)
        if self.residual is not None:
            y = y if self.before_residual is None else self.before_residual.apply(y)
            added = self.residual.double()
            y = y + (added if self.residual_quant is None else self.residual_quant.real(added))
        return on_grids(self.post.apply(y, slope), self.quants, out)


def on_grids(y: torch.Tensor, quants: Sequence[Quant], out: torch.Tensor) -> torch.Tensor:
    """What `out` gets of y, in float64: the nearest numbers of the grids, one after the other; of int8 the integers."""
    for quant in quants:
        y = quant.apply(y)
    if out.dtype != torch.int8 or not quants:
        return y
    return quants[-1].integers(y).nan_to_num(LOWEST)


def apart(act: Act, grids: Sequence[Quant]) -> Act:
    """What is left to do of `act` before its result is rounded to `grids`: nothing of a Relu where the first of them
    has no number below zero, and so cuts off what the Relu does."""
    return IDENTITY if act == RELU and grids and grids[0].zero == LOWEST else act


def check_grids(dtype: torch.dtype, quants: Sequence[Quant]) -> None:
    """Raises ValueError if an output of `dtype` has not the grids that it needs, or more than a launch can have."""
    check_grid(dtype, quants[-1] if quants else None, "out", only=False)
    if len(quants) > GRIDS:
        raise ValueError(f"{len(quants)} grids, and a launch rounds to {GRIDS} at most")


def check_grid(dtype: torch.dtype, quant: Quant | None, name: str, only: bool = True) -> None:
    """Raises ValueError for int8 without a grid and, if `only` int8 has one, for a grid of anything else."""
    if (dtype == torch.int8) != (quant is not None) and (only or quant is None):
        raise ValueError(f"{name} is {dtype}, and {'no grid is given' if quant is None else 'a grid is given'}")


def check_floats(**tensors: torch.Tensor | None) -> None:
    """Raises ValueError for int8, of kernels that do not take it."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.dtype == torch.int8:
            raise ValueError(f"{name} is int8, and this kernel multiplies floats alone")


def check_operands(x: torch.Tensor, weight: torch.Tensor, before: Prologue, after: Epilogue) -> bool:
    """Whether a product sums integers. Raises ValueError for types that do not go together.

    An int8 weight is multiplied with int8 x, as they are; `before` may have the grid of x and nothing else, unless it
    rounds x to one.
    """
    integers = weight.dtype == torch.int8
    if not integers or before.onto is not None:
        check_grid(x.dtype, before.quant, "x")
    elif x.dtype != torch.int8 or before.affine or before.act:
        raise ValueError(f"an int8 weight is multiplied with int8 and nothing before it, and x is {x.dtype}")
    if integers != (after.scale is not None):
        raise ValueError(f"weight is {weight.dtype}, and a scale {'is missing' if integers else 'is given'}")
    if integers and (terms := weight.numel() // after.scale.numel()) > _TERMS:
        raise ValueError(f"a sum of {terms} terms may leave int32: {_TERMS} at most")
    return integers


def check_slope(slope: torch.Tensor | None, channels: int, *acts: Act, name: str = "slope") -> None:
    """Raises ValueError unless there are slopes where just one of `acts` is a PRelu, and none where none is."""
    check_vector(slope, channels, name)
    if sum(act.sloped for act in acts) != (slope is not None):
        kinds = ", ".join(act.kind for act in acts)
        raise ValueError(f"{name} is {'absent' if slope is None else 'given'}, and what it is for is {kinds}")
