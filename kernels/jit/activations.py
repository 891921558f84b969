"""Epilogue and prologue functions: each activation a jit function of (x, a, b), passed as a constexpr.

NaN in, NaN out: hardware max and min drop a NaN by default, which would turn a broken layer into plausible zeros.

`activation(act)` gives the jit function, `apply(x, act)` the plain torch reference.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from optgraph.ir.values import Act


def apply(x: torch.Tensor, act: Act) -> torch.Tensor:
    return act.apply(x)


@triton.jit
def _identity(x, a, b):
    return x


@triton.jit
def _relu(x, a, b):
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _clip(x, a, b):
    return tl.minimum(tl.maximum(x, a, tl.PropagateNan.ALL), b, tl.PropagateNan.ALL)


@triton.jit
def _leaky_relu(x, a, b):
    return tl.where(x >= 0.0, x, a * x)


@triton.jit
def _sigmoid(x, a, b):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def _silu(x, a, b):
    return x / (1.0 + tl.exp(-x))


@triton.jit
def _tanh(x, a, b):
    # 1 - 2/(e^2x + 1) stays finite at both ends, which (e^2x - 1)/(e^2x + 1) does not.
    return 1.0 - 2.0 / (tl.exp(2.0 * x) + 1.0)


@triton.jit
def _hard_sigmoid(x, a, b):
    return tl.minimum(tl.maximum(a * x + b, 0.0, tl.PropagateNan.ALL), 1.0, tl.PropagateNan.ALL)


@triton.jit
def _hard_swish(x, a, b):
    return x * tl.minimum(tl.maximum(x / 6.0 + 0.5, 0.0), 1.0)  # NaN survives in the factor x


_FUNCTIONS = {
    "identity": _identity,
    "relu": _relu,
    "clip": _clip,
    "leaky_relu": _leaky_relu,
    "sigmoid": _sigmoid,
    "silu": _silu,
    "tanh": _tanh,
    "hard_sigmoid": _hard_sigmoid,
    "hard_swish": _hard_swish,
}


def activation(act: Act) -> Any:
    """The jit function `f(x, a, b)` that computes `act` on a block of float32."""
    return _FUNCTIONS[act.kind]
