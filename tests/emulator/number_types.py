"""PTX's types in numpy, and the arithmetic in which numpy's differs from the machine's."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

TYPES: dict[str, Any] = {
    "u8": np.uint8,
    "u16": np.uint16,
    "u32": np.uint32,
    "u64": np.uint64,
    "s8": np.int8,
    "s16": np.int16,
    "s32": np.int32,
    "s64": np.int64,
    "b8": np.uint8,
    "b16": np.uint16,
    "b32": np.uint32,
    "b64": np.uint64,
    "f16": np.float16,
    "f32": np.float32,
    "f64": np.float64,
    "pred": np.bool_,
}
WIDER = {np.int16: np.int32, np.uint16: np.uint32, np.int32: np.int64, np.uint32: np.uint64}
WORD: dict[int, Any] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64, 16: np.complex128}  # raw, by bytes


def round_bf16(x: Array) -> Array:
    """float32 as the bits of bfloat16, to nearest even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + np.uint64(0x7FFF) + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)
    return np.where(np.isnan(x), np.uint16(0x7FFF), rounded.astype(np.uint16))


def from_bf16(bits: Array) -> Array:
    """The bits of bfloat16 as float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def round_half(x: Array, kind: str) -> Array:
    """float32 as the bits of 'f16' or 'bf16'."""
    return x.astype(np.float16).view(np.uint16) if kind == "f16" else round_bf16(x)


def from_half(bits: Array, kind: str) -> Array:
    """The bits of 'f16' or 'bf16' as float32."""
    return bits.view(np.float16).astype(np.float32) if kind == "f16" else from_bf16(bits)


def unpacked(words: Array, kind: str) -> Array:
    """32-bit registers as float32 elements of a tensor core's operand: four 's8', two halves, or one 'tf32'."""
    if kind == "s8":
        return words.view(np.int8).astype(np.float32)
    if kind == "tf32":
        return (words & np.uint32(0xFFFFE000)).view(np.float32)  # the hardware drops the last 13 bits
    return from_half(words.view(np.uint16), kind)


ITEM = {"s8": 1, "f16": 2, "bf16": 2, "tf32": 4}  # bytes of an element of a tensor core's operand
SUM: dict[str, Any] = {"s8": np.int32}  # what it adds products of them up in, if not float32


def accumulated(old: Array, product: Array, saturate: bool = False) -> Array:
    """A sum of products, of the type that `old` has. Of int8, those of one instruction are whole numbers below 2^24."""
    if old.dtype == np.float32:
        return np.asarray(old + product)
    total = old.astype(np.int64) + product.astype(np.int64)
    limits = np.iinfo(np.int32)
    return total.clip(limits.min, limits.max).astype(np.int32) if saturate else total.astype(np.int32)


def flushed(x: Array) -> Array:
    """Subnormal numbers as zeros of their sign: `.ftz`."""
    return np.where(np.abs(x) < np.finfo(np.float32).tiny, x * 0, x)


def divide(a: Array, b: Array) -> Array:
    """Integers, truncating; all bits set where the divisor is zero."""
    zero = b == 0
    safe = np.where(zero, 1, b)
    if a.dtype.kind == "u":
        return np.where(zero, ~np.zeros_like(a), a // safe).astype(a.dtype)
    wide_a, wide_b = a.astype(np.int64), safe.astype(np.int64)
    quotient = np.abs(wide_a) // np.abs(wide_b)
    return np.where(zero, -1, np.where((wide_a < 0) != (wide_b < 0), -quotient, quotient)).astype(a.dtype)


def shift_left(a: Array, n: Array) -> Array:
    """Past the last bit it is zero."""
    bits = 8 * a.itemsize
    n = n.view(np.uint32).astype(np.int64)
    return np.where(n >= bits, 0, a << np.minimum(n, bits - 1).astype(a.dtype)).astype(a.dtype)


def shift_right(a: Array, n: Array) -> Array:
    """Signed numbers keep their sign; of others, past the last bit it is zero."""
    bits = 8 * a.itemsize
    n = n.view(np.uint32).astype(np.int64)
    moved = a >> np.minimum(n, bits - 1).astype(a.dtype)
    return moved if a.dtype.kind == "i" else np.where(n >= bits, 0, moved).astype(a.dtype)


def fma(a: Array, b: Array, c: Array) -> Array:
    """float32 multiply and add, rounded once (but for rare double rounding)."""
    return (a.astype(np.float64) * b.astype(np.float64) + c.astype(np.float64)).astype(np.float32)


_COMPARE: dict[str, Any] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "lo": np.less,
    "ls": np.less_equal,
    "hi": np.greater,
    "hs": np.greater_equal,
}


def compare(how: str, a: Array, b: Array) -> Array:
    """`setp`. A comparison with NaN is false, but for those that end in `u`."""
    if a.dtype.kind != "f":
        return np.asarray(_COMPARE[how](a, b))
    nan = np.isnan(a) | np.isnan(b)
    if how in ("nan", "num"):
        return nan if how == "nan" else ~nan
    if how in _COMPARE:
        return np.asarray(_COMPARE[how](a, b) & ~nan)
    return np.asarray(nan | _COMPARE[how.removesuffix("u")](a, b))


ROUNDINGS: dict[str, Any] = {"rzi": np.trunc, "rni": np.rint, "rmi": np.floor, "rpi": np.ceil}


def to_integer(x: Array, rounding: str, kind: Any) -> Array:
    """Saturated, NaN as 0."""
    limits = np.iinfo(kind)
    rounded = np.nan_to_num(ROUNDINGS[rounding](x.astype(np.float64)), nan=0.0)
    clipped = np.clip(rounded, limits.min, limits.max)
    # float64 has no 2^63 - 1: what rounded up to 2^63 would turn into the least number.
    return np.where(clipped >= float(limits.max), limits.max, clipped.astype(kind)).astype(kind)
