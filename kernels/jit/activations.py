# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Each activation as a jit function of (x, a, b) on a block of float32, named as in `Act`.

NaN in, NaN out: hardware max and min drop a NaN by default, which would turn a broken layer into plausible zeros.
"""

from __future__ import annotations

import triton
import triton.language as tl

from optgraph.kernels.jit.combine import raised


@triton.jit
def identity(x, a, b):
    return x


@triton.jit
def relu(x, a, b):
    zero = tl.core.to_tensor(0.0).to(x.dtype)  # in the type that x has
    return tl.maximum(x, zero, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def clip(x, a, b):
    return tl.minimum(tl.maximum(x, a, tl.PropagateNan.ALL), b, tl.PropagateNan.ALL)


@triton.jit
def leaky_relu(x, a, b):
    return tl.where(x >= 0.0, x, a * x)


@triton.jit
def prelu(x, a, b):
    return leaky_relu(x, a, b)


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


@triton.jit
def elu(x, a, b):
    return tl.where(x > 0.0, b * x, a * (tl.exp(tl.minimum(x, 0.0, tl.PropagateNan.ALL)) - 1.0))


@triton.jit
def celu(x, a, b):
    return tl.where(x > 0.0, x, a * (tl.exp(tl.minimum(x, 0.0, tl.PropagateNan.ALL) / a) - 1.0))


@triton.jit
def gelu(x, a, b):
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def gelu_tanh(x, a, b):
    return 0.5 * x * (1.0 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x), a, b))


@triton.jit
def softplus(x, a, b):
    e = tl.exp(-tl.abs(x))
    u = 1.0 + e
    # log(1 + e): what rounding takes from 1 + e, the factor gives back.
    log1p = tl.where(u == 1.0, e, tl.log(u) * (e / (u - 1.0)))
    return tl.maximum(x, 0.0, tl.PropagateNan.ALL) + log1p


@triton.jit
def mish(x, a, b):
    # tanh(log(1 + e)) is n / (n + 2) with n = e^2 + 2e; beyond 20 it is 1.
    e = tl.exp(tl.minimum(x, 20.0, tl.PropagateNan.ALL))
    n = e * (e + 2.0)
    return x * (n / (n + 2.0))


@triton.jit
def softsign(x, a, b):
    return x / (1.0 + tl.abs(x))


@triton.jit
def threshold(x, a, b):
    return tl.where(x <= a, 0.0, x)


@triton.jit
def power(x, a, b):
    return raised(x, tl.where(x == x, a, a))  # a block of it; Gluon has no zeros_like


@triton.jit
def neg(x, a, b):
    return -x


@triton.jit
def abs(x, a, b):
    return tl.abs(x)


@triton.jit
def reciprocal(x, a, b):
    return 1.0 / x


@triton.jit
def sqrt(x, a, b):
    return tl.sqrt_rn(x)


@triton.jit
def exp(x, a, b):
    return tl.exp(x)


@triton.jit
def log(x, a, b):
    return tl.log(x)


@triton.jit
def erf(x, a, b):
    return tl.erf(x)


@triton.jit
def sin(x, a, b):
    return tl.sin(x)


@triton.jit
def cos(x, a, b):
    return tl.cos(x)


@triton.jit
def sign(x, a, b):
    return tl.where(x > 0.0, 1.0, tl.where(x < 0.0, -1.0, x))


@triton.jit
def floor(x, a, b):
    return tl.floor(x)


@triton.jit
def ceil(x, a, b):
    return tl.ceil(x)


@triton.jit
def round(x, a, b):
    # A float32 of 2^23 or more has no fraction; the sum with 1.5 * 2^23 rounds as it is stored.
    return tl.where(tl.abs(x) < 4194304.0, (x + 12582912.0) - 12582912.0, x)
