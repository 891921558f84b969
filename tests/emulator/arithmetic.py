"""Instructions that make a number of numbers: arithmetic, bits, comparisons, selections."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tests.emulator.faults import UnsupportedError
from tests.emulator.number_types import (
    TYPES,
    WIDER,
    Array,
    compare,
    divide,
    flushed,
    fma,
    from_bf16,
    from_half,
    round_half,
    shift_left,
    shift_right,
)
from tests.emulator.operands import Function, Reader, Step, number_of
from tests.emulator.ptx import Instruction

Maker = Callable[[Reader, Instruction], Step]
_PACKED = ("f16x2", "bf16x2", "bf16")
_PAIRS = {"s16x2": np.int16, "u16x2": np.uint16}


def _computed(function: Function, integer: Function | None = None) -> Maker:
    """By `function`, or, of integers, by `integer`; in the type of the instruction, rounded to it once."""

    def make(reader: Reader, i: Instruction) -> Step:
        if i.type in _PACKED:
            return _packed(reader, i, function)
        if i.type in _PAIRS:
            return _pairs(reader, i, integer or function)
        kind = TYPES[i.type]
        chosen = integer if integer and np.dtype(kind).kind in "iu" else function
        flush = flushed if "ftz" in i.modifiers else (lambda x: x)

        def computed(*values: Array) -> Array:
            return _canonical(flush(chosen(*map(flush, values)).astype(kind, copy=False)))

        return reader.elementwise(i, [kind] * (len(i.operands) - 1), computed)

    return make


def _canonical(x: Array) -> Array:
    """The NaN that a GPU makes, whose bits are those of a positive number (PTX ISA, "Floating-Point Instructions")."""
    return np.where(np.isnan(x), np.uint32(0x7FFFFFFF).view(np.float32), x) if x.dtype == np.float32 else x


def _pairs(reader: Reader, i: Instruction, function: Function) -> Step:
    """Two 16-bit integers in a register, each by itself."""
    kind = _PAIRS[i.type]

    def of_pairs(*values: Array) -> Array:
        low, high = (function(*[(v >> np.uint32(s)).astype(np.uint16).view(kind) for v in values]) for s in (0, 16))
        upper = high.astype(np.uint16).astype(np.uint32) << np.uint32(16)
        return upper | low.astype(np.uint16).astype(np.uint32)

    return reader.elementwise(i, [np.uint32] * (len(i.operands) - 1), of_pairs)


def _packed(reader: Reader, i: Instruction, function: Function) -> Step:
    """Halves, one or two in a register: in float32, rounded once."""
    kind = i.type.removesuffix("x2")

    def of_halves(*values: Array) -> Array:
        return round_half(function(*[from_half(v, kind) for v in values]).astype(np.float32), kind)

    def of_pairs(*values: Array) -> Array:
        halves = [of_halves(*[(v >> np.uint32(s)).astype(np.uint16) for v in values]) for s in (0, 16)]
        return halves[0].astype(np.uint32) | (halves[1].astype(np.uint32) << np.uint32(16))

    wide = i.type.endswith("x2")
    kinds = [np.uint32 if wide else np.uint16] * (len(i.operands) - 1)
    return reader.elementwise(i, kinds, of_pairs if wide else of_halves)


def _mul(reader: Reader, i: Instruction) -> Step:
    if i.modifiers[0] not in ("wide", "hi"):
        return _computed(np.multiply)(reader, i)
    kind = TYPES[i.type]
    wide, bits = WIDER[kind], 8 * np.dtype(kind).itemsize
    if i.modifiers[0] == "wide":
        return reader.elementwise(i, [kind, kind], lambda a, b: a.astype(wide) * b.astype(wide))
    return reader.elementwise(
        i, [kind, kind], lambda a, b: ((a.astype(wide) * b.astype(wide)) >> wide(bits)).astype(kind)
    )


def _mad(reader: Reader, i: Instruction) -> Step:
    kind = TYPES[i.type]
    if i.modifiers[0] == "lo":
        return reader.elementwise(i, [kind] * 3, lambda a, b, c: a * b + c)
    if i.modifiers[0] != "wide":
        raise UnsupportedError("mad")
    wide = WIDER[kind]
    return reader.elementwise(i, [kind, kind, wide], lambda a, b, c: a.astype(wide) * b.astype(wide) + c)


def _dp4a(reader: Reader, i: Instruction) -> Step:
    if i.modifiers != ("s32", "s32"):
        raise UnsupportedError("dp4a of no int8")

    def multiply(a: Array, b: Array, c: Array) -> Array:
        for k in range(4):
            c = c + (a << np.int32(24 - 8 * k) >> np.int32(24)) * (b << np.int32(24 - 8 * k) >> np.int32(24))
        return c

    return reader.elementwise(i, [np.int32] * 3, multiply)


def _fma(reader: Reader, i: Instruction) -> Step:
    if i.type == "f16":
        kinds = [np.float16] * 3
        return reader.elementwise(i, kinds, lambda a, b, c: (a.astype(np.float64) * b + c).astype(np.float16))
    if i.type in _PACKED:
        return _packed(reader, i, lambda a, b, c: a.astype(np.float64) * b + c)
    return _computed(fma)(reader, i)


def _bitwise(function: Function) -> Maker:
    return lambda reader, i: reader.elementwise(i, [TYPES[i.type]] * (len(i.operands) - 1), function)


def _shift(function: Function) -> Maker:
    return lambda reader, i: reader.elementwise(i, [TYPES[i.type], np.uint32], function)


def _shf(reader: Reader, i: Instruction) -> Step:
    right, wrap = i.modifiers[0] == "r", i.modifiers[1] == "wrap"

    def funnel(a: Array, b: Array, n: Array) -> Array:
        n = n.astype(np.uint64) & np.uint64(31) if wrap else np.minimum(n.astype(np.uint64), np.uint64(32))
        both = (b.astype(np.uint64) << np.uint64(32)) | a.astype(np.uint64)
        return (both >> n if right else (both << n) >> np.uint64(32)).astype(np.uint32)

    return reader.elementwise(i, [np.uint32] * 3, funnel)


def _bfe(reader: Reader, i: Instruction) -> Step:
    kind = TYPES[i.type]
    target, source, *numbers = i.operands
    position, length = map(number_of, numbers)
    field = (1 << length) - 1

    def extract(a: Array) -> Array:
        x = (a.view(np.uint32) >> np.uint32(position)) & np.uint32(field)
        if np.dtype(kind).kind == "i":
            negative = (x >> np.uint32(length - 1)) & np.uint32(1) == 1
            x = np.where(negative, x | np.uint32(0xFFFFFFFF & ~field), x)
        return x.view(kind)

    return reader.elementwise(_with(i, target, source), [kind], extract)


def _bfi(reader: Reader, i: Instruction) -> Step:
    position, length = map(number_of, i.operands[3:])
    field = ((1 << length) - 1) << position

    def insert(a: Array, b: Array) -> Array:
        return (b & np.uint32(0xFFFFFFFF & ~field)) | ((a << np.uint32(position)) & np.uint32(field))

    return reader.elementwise(_with(i, *i.operands[:3]), [np.uint32] * 2, insert)


def _lop3(reader: Reader, i: Instruction) -> Step:
    table = number_of(i.operands[4])

    def look_up(a: Array, b: Array, c: Array) -> Array:
        result = np.zeros((1, 1), np.uint32)
        for k in range(8):
            if table >> k & 1:
                result = result | (a if k & 4 else ~a) & (b if k & 2 else ~b) & (c if k & 1 else ~c)
        return result

    return reader.elementwise(_with(i, *i.operands[:4]), [np.uint32] * 3, look_up)


def _prmt(reader: Reader, i: Instruction) -> Step:
    if len(i.modifiers) > 1:
        raise UnsupportedError("a mode of prmt")

    def permute(a: Array, b: Array, c: Array) -> Array:
        both = (b.astype(np.uint64) << np.uint64(32)) | a.astype(np.uint64)
        result = np.zeros((1, 1), np.uint32)
        for k in range(4):
            select = (c >> np.uint32(4 * k)) & np.uint32(15)
            byte = (both >> ((select & np.uint32(7)).astype(np.uint64) * np.uint64(8))).astype(np.uint32)
            sign = np.where(byte & np.uint32(128), np.uint32(255), np.uint32(0))
            byte = np.where(select & np.uint32(8), sign, byte & np.uint32(255))
            result = result | (byte << np.uint32(8 * k))
        return result

    return reader.elementwise(i, [np.uint32] * 3, permute)


_JOINED: dict[str, Any] = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


def _setp(reader: Reader, i: Instruction) -> Step:
    how, *joined = [m for m in i.modifiers[:-1] if m != "ftz"]
    kind, compared = (np.uint16, _compare_bf16) if i.type == "bf16" else (TYPES[i.type], compare)
    if not joined:
        return reader.elementwise(i, [kind, kind], partial(compared, how))
    join = _JOINED[joined[0]]
    return reader.elementwise(i, [kind, kind, np.bool_], lambda a, b, p: join(compared(how, a, b), p))


def _compare_bf16(how: str, a: Array, b: Array) -> Array:
    return compare(how, from_bf16(a), from_bf16(b))


def _selp(reader: Reader, i: Instruction) -> Step:
    kind = TYPES[i.type]

    def select(a: Array, b: Array, p: Array) -> Array:
        return np.where(p, a, b)

    return reader.elementwise(i, [kind, kind, np.bool_], select)


def _with(i: Instruction, *operands: Any) -> Instruction:
    """The instruction with fewer operands: those that are numbers are in its function."""
    return Instruction(i.text, i.name, i.modifiers, i.guard, operands)


def _extreme(with_nan: Function, without: Function) -> Maker:
    """min or max: `.NaN` gives NaN for one, else the other number."""

    def make(reader: Reader, i: Instruction) -> Step:
        return _computed(with_nan if "NaN" in i.modifiers else without, integer=with_nan)(reader, i)

    return make


def _inverse_root(a: Array) -> Array:
    return np.float32(1) / np.sqrt(a)


ARITHMETIC: dict[str, Maker] = {
    "add": _computed(np.add),
    "sub": _computed(np.subtract),
    "neg": _computed(np.negative),
    "mul": _mul,
    "abs": _computed(np.abs),
    "min": _extreme(np.minimum, np.fmin),
    "max": _extreme(np.maximum, np.fmax),
    "div": _computed(np.divide, divide),
    "rem": _computed(np.fmod, lambda a, b: a - divide(a, b) * b),
    "mad": _mad,
    "dp4a": _dp4a,
    "fma": _fma,
    "ex2": _computed(np.exp2),
    "lg2": _computed(np.log2),
    "tanh": _computed(np.tanh),
    "rcp": _computed(np.reciprocal),
    "sqrt": _computed(np.sqrt),
    "rsqrt": _computed(_inverse_root),
    "and": _bitwise(np.bitwise_and),
    "or": _bitwise(np.bitwise_or),
    "xor": _bitwise(np.bitwise_xor),
    "not": _bitwise(np.invert),
    "shl": _shift(shift_left),
    "shr": _shift(shift_right),
    "shf": _shf,
    "bfe": _bfe,
    "bfi": _bfi,
    "lop3": _lop3,
    "prmt": _prmt,
    "setp": _setp,
    "selp": _selp,
}
