"""What a launch does before and after its own work: y = post(act(op(pre(x)) + bias) + residual).

pre(x) = pre_act(x * pre_scale + pre_shift); a position outside the image is zero after it (-inf to a maximum).

Both hold views where a plan has them, tensors where a launcher does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from optgraph.ir.values import IDENTITY, Act
from optgraph.kernels.frame.arguments import End, Pre, Scalar
from optgraph.kernels.frame.operands import check_shape, check_vector, row_stride
from optgraph.kernels.frame.work import Read

_MOST = 65_504.0  # in fp16


@dataclass(frozen=True)
class Prologue:
    """act(x * scale + shift). scale, shift: float32 [channels of x], or None."""

    scale: Any = None
    shift: Any = None
    act: Act = IDENTITY

    def __bool__(self) -> bool:
        return self.affine or bool(self.act)

    @property
    def affine(self) -> bool:
        return self.scale is not None or self.shift is not None

    def check(self, channels: int) -> None:
        """Raises ValueError if a vector does not fit."""
        check_vector(self.scale, channels, "pre_scale")
        check_vector(self.shift, channels, "pre_shift")

    def argument(self) -> Pre:
        """What the kernel takes."""
        return Pre(self.scale, self.shift, *Scalar.of(self.act)) if self else Pre(None, None, None, None, None)

    @property
    def vectors(self) -> Mapping[str, torch.Tensor | None]:
        return {"pre_scale": self.scale, "pre_shift": self.shift}

    @property
    def reads(self) -> tuple[Read, ...]:
        return ()

    def moves(self, value: float) -> bool:
        """Whether it makes something else of `value`, such as the zeros of a padding."""
        moved = self.shift is not None or (self.scale is not None and value != 0.0)
        return moved or self.act.apply(torch.tensor(value)).item() != value

    def reference(self, x: torch.Tensor) -> torch.Tensor:
        """In float64."""
        x = x.double()
        if self.scale is not None:
            x = x * self.scale.double()
        if self.shift is not None:
            x = x + self.shift.double()
        return self.act.apply(x)


def clears(act: Act) -> bool:
    """Whether `act` makes of zero what times zero is none, in fp16 either: 1/0, log 0. Then what it gives beyond the
    channels of an operand is to be cleared, for the weights there are zeros."""
    return not act.sloped and not act.apply(torch.tensor(0.0)).abs().item() <= _MOST


@dataclass(frozen=True)
class Epilogue:
    """post(act(y + bias) + residual). bias: float32 [channels of the output], or None; residual: as the output. slope:
    as the bias, of that one of `act` and `post` which is a PRelu; None if neither is."""

    bias: Any = None
    act: Act = IDENTITY
    residual: Any = None
    post: Act = IDENTITY
    slope: Any = None

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError if an operand does not fit an output of that shape."""
        check_vector(self.bias, shape[-1], "bias")
        check_slope(self.slope, shape[-1], self.act, self.post)
        if self.residual is not None:
            check_shape(self.residual, shape, "residual")

    @property
    def residual_row(self) -> int:
        return 0 if self.residual is None else row_stride(self.residual, "residual")

    def argument(self) -> End:
        """What the kernel takes."""
        act, post = Scalar.of(self.act, self.slope), Scalar.of(self.post, self.slope)
        return End(self.bias, *act, self.residual, self.residual_row, *post)

    @property
    def vectors(self) -> Mapping[str, torch.Tensor | None]:
        return {"bias": self.bias, "slope": self.slope}

    @property
    def reads(self) -> tuple[Read, ...]:
        return () if self.residual is None else (Read(self.residual),)

    def reference(self, y: torch.Tensor) -> torch.Tensor:
        """In float64."""
        slope = None if self.slope is None else self.slope.double()
        y = self.act.apply(y if self.bias is None else y + self.bias.double(), slope)
        return self.post.apply(y if self.residual is None else y + self.residual.double(), slope)


def check_slope(slope: torch.Tensor | None, channels: int, *acts: Act, name: str = "slope") -> None:
    """Raises ValueError unless there are slopes where just one of `acts` is a PRelu, and none where none is."""
    check_vector(slope, channels, name)
    if sum(act.sloped for act in acts) != (slope is not None):
        kinds = ", ".join(act.kind for act in acts)
        raise ValueError(f"{name} is {'absent' if slope is None else 'given'}, and what it is for is {kinds}")
