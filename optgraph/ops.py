"""The vocabulary of operators a Graph is made of: frozen dataclasses, each naming its input slots.

Tensors are NCHW in meaning throughout the Graph, as in ONNX; memory is NHWC, which only lowering knows.

A computing op (Conv, Separable, Pool, Gemm, ...) may carry a Prologue and an Epilogue. Simplified graphs leave
them empty, so that every op has a standard ONNX equivalent; the fuse passes fill them in:

    y = post( act( op(pre(x)) + bias ) + residual )        pre(x) = pre_act(x * pre_scale + pre_shift)

Padding is applied after the prologue: a padded position contributes exactly zero (or -inf to a max pool).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar


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


IDENTITY = Act()
RELU = Act("relu")


@dataclass(frozen=True)
class Segment:
    """A run of output channels of a merged convolution, with an output of its own."""

    channels: int
    act: Act = IDENTITY


@dataclass(frozen=True)
class Op:
    """Base of all operators. `slots` names the inputs in order; a missing optional input is the empty string."""

    slots: ClassVar[tuple[str, ...]] = ("x",)

    @property
    def kind(self) -> str:
        return type(self).__name__
