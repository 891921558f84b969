"""mov, which packs and unpacks, and cvt."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.emulator.arithmetic import Maker
from tests.emulator.blocks import Blocks, Mask
from tests.emulator.faults import UnsupportedError
from tests.emulator.number_types import ROUNDINGS, TYPES, WORD, Array, from_bf16, round_bf16, round_half, to_integer
from tests.emulator.operands import Reader, Step
from tests.emulator.ptx import Instruction, Register, Vector


def _mov(reader: Reader, i: Instruction) -> Step:
    kind = TYPES[i.type]
    target, source = i.operands
    if isinstance(target, Vector):
        return _unpack(reader, i, np.dtype(kind).itemsize)
    if isinstance(source, Vector):
        return _pack(reader, i, np.dtype(kind).itemsize)
    return reader.elementwise(i, [kind], lambda a: a)


def _unpack(reader: Reader, i: Instruction, size: int) -> Step:
    targets, read = reader.targets(i.operands[0]), reader.value(i.operands[1], WORD[size])
    narrow, bits = WORD[size // len(targets)], 8 * size // len(targets)

    def unpack(blocks: Blocks, mask: Mask) -> None:
        x = read(blocks)
        for k, target in enumerate(targets):
            blocks.set(target, (x >> WORD[size](bits * k)).astype(narrow), mask)

    return unpack


def _pack(reader: Reader, i: Instruction, size: int) -> Step:
    assert isinstance(i.operands[1], Vector)
    parts = i.operands[1].items
    narrow, bits = WORD[size // len(parts)], 8 * size // len(parts)
    target, reads = reader.target(i.operands[0]), [reader.value(part, narrow) for part in parts]

    def pack(blocks: Blocks, mask: Mask) -> None:
        x = np.zeros((1, 1), WORD[size])
        for k, read in enumerate(reads):
            x = x | (read(blocks).astype(WORD[size]) << WORD[size](bits * k))
        blocks.set(target, x, mask)

    return pack


def _cvta(reader: Reader, i: Instruction) -> Step:
    return reader.elementwise(i, [np.uint64], lambda a: a)


def _cvt(reader: Reader, i: Instruction) -> Step:
    *modes, to, source = i.modifiers
    if modes[:1] == ["pack"]:
        return _packed(reader, i)
    if to in ("f16x2", "bf16x2"):
        kind = to.removesuffix("x2")

        def pair(high: Array, low: Array) -> Array:
            upper = round_half(high, kind).astype(np.uint32) << np.uint32(16)
            return upper | round_half(low, kind).astype(np.uint32)

        return reader.elementwise(i, [np.float32] * 2, pair)
    if (to, source) == ("bf16", "f32"):
        return reader.elementwise(i, [np.float32], round_bf16)
    if (to, source) == ("f32", "bf16"):
        return reader.elementwise(i, [np.uint16], from_bf16)
    if to == "tf32" and modes[0] == "rna":
        return reader.elementwise(
            i, [np.float32], lambda x: (x.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
        )
    if to not in TYPES or source not in TYPES:
        raise UnsupportedError("cvt")
    return _between(reader, i, modes, TYPES[to], TYPES[source])


def _packed(reader: Reader, i: Instruction) -> Step:
    """Two integers as the nearest of a byte, the first above the second, below the lower half of a third."""
    if i.modifiers != ("pack", "sat", "s8", "s32", "b32"):
        raise UnsupportedError("cvt.pack")

    def pack(high: Array, low: Array, rest: Array) -> Array:
        upper, lower = (np.clip(x, -128, 127).astype(np.uint32) & np.uint32(255) for x in (high, low))
        packed: Array = lower | upper << np.uint32(8) | rest << np.uint32(16)
        return packed

    return reader.elementwise(i, [np.int32, np.int32, np.uint32], pack)


def _between(reader: Reader, i: Instruction, modes: list[str], to: Any, source: Any) -> Step:
    """Numpy's types."""
    floats = np.dtype(to).kind == "f", np.dtype(source).kind == "f"
    if floats == (False, True):
        return reader.elementwise(i, [source], lambda x: to_integer(x, modes[0], to))
    if floats == (True, True) and modes and modes[0] in ROUNDINGS:
        return reader.elementwise(i, [source], lambda x: ROUNDINGS[modes[0]](x).astype(to))
    # A narrow integer is the low part of a wider register.
    target, operand = i.operands
    held = source
    if isinstance(operand, Register) and reader.program.size(operand.name) > np.dtype(source).itemsize:
        held = WORD[reader.program.size(operand.name)]
    return reader.elementwise(i, [held], lambda x: reader.fitted(x.astype(source).astype(to), target))


CONVERSION: dict[str, Maker] = {"mov": _mov, "cvt": _cvt, "cvta": _cvta}
