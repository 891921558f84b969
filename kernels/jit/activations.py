# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Each activation as a jit function of (x, a, b) on a block of float32, named as in `Act`.

NaN in, NaN out: hardware max and min drop a NaN by default, which would turn a broken layer into plausible zeros.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def identity(x, a, b):
    return x


@triton.jit
def relu(x, a, b):
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def clip(x, a, b):
    return tl.minimum(tl.maximum(x, a, tl.PropagateNan.ALL), b, tl.PropagateNan.ALL)


@triton.jit
def leaky_relu(x, a, b):
    return tl.where(x >= 0.0, x, a * x)


@triton.jit
def sigmoid(x, a, b):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def silu(x, a, b):
    return x / (1.0 + tl.exp(-x))


@triton.jit
def tanh(x, a, b):
    # 1 - 2/(e^2x + 1) stays finite at both ends, which (e^2x - 1)/(e^2x + 1) does not.
    return 1.0 - 2.0 / (tl.exp(2.0 * x) + 1.0)


@triton.jit
def hard_sigmoid(x, a, b):
    return tl.minimum(tl.maximum(a * x + b, 0.0, tl.PropagateNan.ALL), 1.0, tl.PropagateNan.ALL)


@triton.jit
def hard_swish(x, a, b):
    return x * tl.minimum(tl.maximum(x / 6.0 + 0.5, 0.0), 1.0)  # NaN survives in the factor x
