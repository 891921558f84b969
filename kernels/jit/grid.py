# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""The nearest numbers of a grid (`optgraph/ir/quant.py`), as in ONNX: divided, rounded half to even, saturated."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language import core

# The sum with 1.5 * 2^23 rounds a small float32 to a whole number, half to even, which is then in its lowest bits.
_WHOLE = tl.constexpr(12582912.0)
_WHOLE_BITS = tl.constexpr(0x4B400000)
_MOST = tl.constexpr(3.4028234e38)  # a float32
_PACK = tl.constexpr("""{
.reg .b32 %high;
cvt.pack.sat.s8.s32.b32 %high, $4, $3, 0;
cvt.pack.sat.s8.s32.b32 $0, $2, $1, %high;
}""")


def interpreted(_semantic=None):
    """Whether this is run by the interpreter, which has no `_semantic`."""
    return core.constexpr(_semantic is None)


interpreted.__triton_builtin__ = True  # type: ignore[attr-defined]  # the compiler calls it


@triton.jit
def _divided(y, scale, inverse):
    """y / scale, correctly rounded, in three instructions instead of a dozen and a branch. The remainder of the
    quotient by `inverse` is exact, and tells what that lacks (Markstein)."""
    if interpreted():  # its fma rounds twice
        return tl.div_rn(y, scale)
    near = y * inverse
    return tl.fma(tl.fma(near, -scale, y), inverse, near)


@triton.jit
def _lowest(scale, zero):
    return tl.maximum((-128.0 - zero.to(tl.float32)) * scale, -_MOST)


@triton.jit
def nearest(y, scale, inverse, zero):
    """The number of the grid nearest to `y`; NaN stays NaN."""
    # Cut off before it is divided: what is left of infinity has a remainder, and the ends are as near to whole steps.
    high = tl.minimum((127.0 - zero.to(tl.float32)) * scale, _MOST)
    # Triton 3.6 passes no PropagateNan on
    y = tl.minimum(tl.maximum(y, _lowest(scale, zero), tl.PropagateNan.ALL), high, tl.PropagateNan.ALL)
    return (_divided(y, scale, inverse) + _WHOLE - _WHOLE) * scale


@triton.jit
def integers(y, scale, inverse, zero):
    """The int8 that stands for it; of NaN the lowest, as in ONNX Runtime."""
    if interpreted():  # no maximum of its loses a NaN
        y = tl.where(y == y, y, float("-inf"))
    # The bits of positive floats are in their order, and NaN is above infinity: what is too high only saturates.
    whole = _divided(tl.maximum(y, _lowest(scale, zero)), scale, inverse) + _WHOLE
    return _saturated(whole.to(tl.int32, bitcast=True) + (zero - _WHOLE_BITS))


@triton.jit
def _saturated(x):
    """int32 as the nearest int8: two in one instruction, side by side as they are stored."""
    if interpreted():
        return tl.minimum(tl.maximum(x, -128), 127).to(tl.int8)
    return tl.inline_asm_elementwise(_PACK, "=r,r,r,r,r", [x], tl.int8, is_pure=True, pack=4)


@triton.jit
def quotient(x, inverse, zero):
    """The int8 nearest to zero + x * inverse, which is one, of whole numbers `x`: of two the one that is even without
    the zero. The product is rounded by itself, which makes halves of halves though an inverse is not exact."""
    if interpreted():
        product = x * inverse
    else:
        of_all = tl.broadcast_to(inverse, x.shape)
        product = tl.inline_asm_elementwise(
            "mul.rn.f32 $0, $1, $2;", "=f,f,f", [x, of_all], tl.float32, is_pure=True, pack=1
        )
    return ((product + _WHOLE).to(tl.int32, bitcast=True) + zero).to(tl.int8)


@triton.jit
def settled_last(y, scale, inverse, zero, TYPE: tl.constexpr):
    """The nearest number of the grid as an output of TYPE gets it."""
    y = integers(y, scale, inverse, zero) if tl.int8 == TYPE else nearest(y, scale, inverse, zero)
    return y.to(TYPE)


@triton.jit
def settled(y, end, TYPE: tl.constexpr):
    """What an output of TYPE gets of the float32 `y`: the nearest numbers of the grids, one after the other."""
    if end.first_scale is not None:
        y = nearest(y, end.first_scale, end.first_inverse, end.first_zero)
    if end.last_scale is not None:
        y = settled_last(y, end.last_scale, end.last_inverse, end.last_zero, TYPE)
    return y.to(TYPE)
