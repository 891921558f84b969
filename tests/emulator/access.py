"""Loads, stores and atomics, of parameters, shared and global memory; cp.async."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.emulator.arithmetic import Maker
from tests.emulator.blocks import Blocks, Mask
from tests.emulator.faults import FaultError, UnsupportedError
from tests.emulator.memory import gather, scatter, word_at, words
from tests.emulator.number_types import TYPES, WORD, Array
from tests.emulator.operands import Read, Reader, Step, items, number_of
from tests.emulator.ptx import Address, Instruction, Operand, Register

Targets = Sequence[tuple[int, Operand]]  # registers by their numbers, and as they are written


def _sizes(i: Instruction) -> tuple[int, int]:
    """Bytes of an element, and elements of the vector."""
    vector = [int(m[1:]) for m in i.modifiers if re.fullmatch(r"v\d", m)]
    return int(i.type[1:]) // 8, vector[0] if vector else 1


def _ld(reader: Reader, i: Instruction) -> Step:
    size, count = _sizes(i)
    place = i.modifiers[0]
    targets = [(reader.target(item), item) for item in items(i.operands[0])]
    if place == "param":
        return _ld_param(reader, i, size)
    if place.startswith("shared"):
        at = reader.address(i.operands[1])

        def load_shared(blocks: Blocks, mask: Mask) -> None:
            index = blocks.shared.index(at(blocks), size * count, mask)
            _spread(reader, blocks, blocks.shared.words[size * count][index], size, targets, mask)

        return load_shared
    if place != "global":
        raise UnsupportedError("ld")
    at = reader.address(i.operands[1], np.uint64)

    def load(blocks: Blocks, mask: Mask) -> None:
        address = at(blocks)
        if mask is None:
            x = gather(address, size * count, blocks.allowed(mask))
        else:
            shape = np.broadcast_shapes(address.shape, mask.shape)
            active = np.broadcast_to(mask, shape)
            x = np.zeros(shape, WORD[size * count])
            x[active] = gather(np.broadcast_to(address, shape)[active], size * count, blocks.allowed(mask))
        _spread(reader, blocks, x, size, targets, mask)

    return load


def _ld_param(reader: Reader, i: Instruction, size: int) -> Step:
    """By address, for it may be one of several parameters'."""
    target, (operand,) = i.operands[0], i.operands[1:]
    if not isinstance(operand, Address):
        raise UnsupportedError("ld.param")
    number, at = reader.target(target), reader.address(operand, np.uint64)
    chosen = isinstance(operand.base, Register)

    def load(blocks: Blocks, mask: Mask) -> None:
        address = at(blocks)
        x = np.zeros(address.shape, WORD[size])
        # Those who do not take part may have no address.
        taking_part = address if mask is None or not chosen else blocks.full(address)[blocks.lanes(mask)]
        for a in np.unique(taking_part):
            x[address == a] = np.frombuffer(blocks.parameters.at(int(a), size), WORD[size])[0]
        blocks.set(number, reader.fitted(x, target), mask)

    return load


def _spread(reader: Reader, blocks: Blocks, x: Array, size: int, targets: Targets, mask: Mask) -> None:
    """The elements of a loaded vector to their registers."""
    parts = np.ascontiguousarray(x).view(WORD[size]).reshape(*x.shape, len(targets))
    for k, (number, target) in enumerate(targets):
        blocks.set(number, reader.fitted(np.ascontiguousarray(parts[..., k]), target), mask)


def _gathered(reader: Reader, operand: Operand, size: int) -> Read:
    """The elements of a vector as one word."""
    parts = items(operand)
    if size == 1:  # bytes are held in registers of 16 bits
        reads: list[Read] = [_low_byte(reader.value(part, np.uint16)) for part in parts]
    else:
        reads = [reader.value(part, WORD[size]) for part in parts]

    def read(blocks: Blocks) -> Array:
        values = np.broadcast_arrays(*[r(blocks) for r in reads])
        joined = np.ascontiguousarray(np.stack(values, axis=-1))
        return joined.reshape(*joined.shape[:-2], -1).view(WORD[size * len(parts)])

    return read


def _low_byte(read: Read) -> Read:
    return lambda blocks: read(blocks).astype(np.uint8)


def _st(reader: Reader, i: Instruction) -> Step:
    size, count = _sizes(i)
    total, place = size * count, i.modifiers[0]
    read = _gathered(reader, i.operands[1], size)
    if place.startswith("shared"):
        at = reader.address(i.operands[0])

        def store_shared(blocks: Blocks, mask: Mask) -> None:
            index = blocks.full(blocks.shared.index(at(blocks), total, mask))
            blocks.shared.store(index, total, blocks.full(read(blocks)), blocks.lanes(mask))

        return store_shared
    if place != "global":
        raise UnsupportedError("st")
    where = reader.address(i.operands[0], np.uint64)

    def store(blocks: Blocks, mask: Mask) -> None:
        lanes = blocks.lanes(mask)
        scatter(blocks.full(where(blocks))[lanes], total, blocks.full(read(blocks))[lanes], blocks.allowed(mask))

    return store


_ATOMIC: dict[str, Any] = {
    "add": np.add,
    "max": np.maximum,
    "min": np.minimum,
    "exch": lambda old, x: x,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
}


def _atom(reader: Reader, i: Instruction) -> Step:
    """`atom`, which has a result, and `red`, which has none. Threads take turns in their order."""
    if i.modifiers[0] != "global":
        raise UnsupportedError(i.name)
    kind = TYPES[i.type]
    size = np.dtype(kind).itemsize
    function = next(_ATOMIC[m] for m in i.modifiers if m in _ATOMIC)
    target, (place, source) = (reader.target(i.operands[0]), i.operands[1:]) if i.name == "atom" else (-1, i.operands)
    at, read = reader.address(place, np.uint64), reader.value(source, kind)

    def atomic(blocks: Blocks, mask: Mask) -> None:
        lanes = blocks.lanes(mask)
        where, x = blocks.full(at(blocks))[lanes], blocks.full(read(blocks))[lanes]
        blocks.allowed(mask).check(where, size, write=True)
        cells = words(size).view(kind)
        old = np.zeros(lanes.shape, kind)
        before = np.empty(len(x), kind)
        for k, cell in enumerate(map(int, word_at(where, size))):
            before[k] = cells[cell]
            cells[cell] = function(cells[cell], x[k])
        old[lanes] = before
        blocks.set(target, old, mask)

    return atomic


def _cp(reader: Reader, i: Instruction) -> Step:
    """cp.async; those of the copy engine are in `tma`."""
    how = i.modifiers[1]
    if how == "commit_group":
        return lambda blocks, mask: blocks.queues.copies.commit(blocks.lanes(mask))
    if how in ("wait_group", "wait_all"):
        left = number_of(i.operands[0]) if how == "wait_group" else -1
        return lambda blocks, mask: blocks.queues.copies.wait(blocks.lanes(mask), left)
    if how not in ("ca", "cg"):
        raise UnsupportedError("cp")
    size = number_of(i.operands[2])
    if size not in (4, 8, 16) or (how == "cg" and size != 16):
        raise FaultError(f"cp.async.{how} of {size} bytes")
    at, source = reader.address(i.operands[0]), reader.address(i.operands[1], np.uint64)
    amount = reader.value(i.operands[3], np.uint32) if len(i.operands) > 3 else None

    def copy(blocks: Blocks, mask: Mask) -> None:
        index = blocks.full(blocks.shared.index(at(blocks), size, mask))
        address = blocks.full(source(blocks))
        whole = blocks.full(np.ones((1, 1), bool) if amount is None else amount(blocks) == size)
        if amount is not None and (blocks.lanes(mask) & ~whole & (amount(blocks) != 0)).any():
            raise UnsupportedError("cp.async of a part of a word")
        allowed = blocks.allowed(mask)

        def work(lanes: Array) -> None:
            read = lanes & whole
            blocks.shared.words[size][index[lanes & ~whole]] = 0
            blocks.shared.words[size][index[read]] = gather(address[read], size, allowed)

        if blocks.timing.late_copies:
            blocks.queues.copies.add(work, blocks.lanes(mask))
        else:
            work(blocks.lanes(mask))

    return copy


def prefetch(reader: Reader, i: Instruction) -> Step:
    """cp.async.bulk.prefetch into L2. It changes nothing; what it fetches must be the launch's all the same."""
    if i.modifiers[3:] != ("L2", "global"):
        raise UnsupportedError("a form of cp.async.bulk.prefetch")
    at, amount = reader.address(i.operands[0], np.uint64), reader.value(i.operands[1], np.uint32)

    def fetch(blocks: Blocks, mask: Mask) -> None:
        lanes = blocks.lanes(mask)
        found = (blocks.full(value)[lanes].tolist() for value in (at(blocks), amount(blocks)))
        for first, size in zip(*found, strict=True):
            if first % 16 or size % 16:
                raise FaultError(f"cp.async.bulk of {size} bytes from {first:#x}")
            pieces = np.uint64(first) + 16 * np.arange(size // 16, dtype=np.uint64)
            blocks.allowed(mask).check(pieces, 16, write=False)

    return fetch


ACCESS: dict[str, Maker] = {"ld": _ld, "st": _st, "atom": _atom, "red": _atom, "cp": _cp}
