"""Instructions of a warp's tensor core: ldmatrix, stmatrix, mma; and what warps exchange: shfl, redux, elect.

In a fragment, thread t has row t / 4 and, of 16-bit elements, columns 2 (t % 4) and the next; of bytes, four of them.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from tests.emulator.arithmetic import Maker
from tests.emulator.blocks import WARP, Blocks, Mask
from tests.emulator.faults import UnsupportedError
from tests.emulator.number_types import ITEM, TYPES, Array, accumulated, unpacked
from tests.emulator.operands import Read, Reader, Step, items, number_of
from tests.emulator.ptx import Instruction, Pair


def _count(i: Instruction) -> int:
    """How many 8×8 matrices."""
    return int(next(m for m in i.modifiers if re.fullmatch(r"x\d", m))[1:])


def _ldmatrix(reader: Reader, i: Instruction) -> Step:
    count, transposed = _count(i), "trans" in i.modifiers
    targets, at = reader.targets(i.operands[0]), reader.address(i.operands[1])

    def load(blocks: Blocks, mask: Mask) -> None:
        blocks.require_whole(mask, WARP)
        giving = blocks.lanes(mask) & (np.arange(blocks.threads) % WARP < 8 * count)  # an address of a row
        index = blocks.full(blocks.shared.index(at(blocks), 16, giving))
        rows = blocks.shared.words[16][index].reshape(-1, WARP)[:, : 8 * count]
        matrices = np.ascontiguousarray(rows).view(np.uint16).reshape(-1, count, 8, 8)
        if transposed:
            matrices = matrices.swapaxes(2, 3)
        parts = np.ascontiguousarray(matrices).view(np.uint32).reshape(-1, count, WARP)
        for k, target in enumerate(targets):
            blocks.set(target, np.ascontiguousarray(parts[:, k]).reshape(blocks.count, blocks.threads), mask)

    return load


def _stmatrix(reader: Reader, i: Instruction) -> Step:
    count, transposed = _count(i), "trans" in i.modifiers
    at, reads = reader.address(i.operands[0]), [reader.value(x, np.uint32) for x in items(i.operands[1])]

    def store(blocks: Blocks, mask: Mask) -> None:
        blocks.require_whole(mask, WARP)
        giving = blocks.lanes(mask) & (np.arange(blocks.threads) % WARP < 8 * count)
        index = blocks.full(blocks.shared.index(at(blocks), 16, giving))
        parts = np.stack([blocks.full(read(blocks)).reshape(-1, WARP) for read in reads], axis=1)
        matrices = np.ascontiguousarray(parts).view(np.uint16).reshape(-1, count, 8, 8)
        if transposed:
            matrices = matrices.swapaxes(2, 3)
        rows = np.ascontiguousarray(matrices).reshape(-1, count * 64).view(np.complex128)
        every = np.pad(rows, ((0, 0), (0, WARP - 8 * count))).reshape(giving.shape)
        blocks.shared.store(index, 16, every, giving)

    return store


_SHAPES = {("m16n8k16", "f16"), ("m16n8k16", "bf16"), ("m16n8k8", "f16"), ("m16n8k8", "bf16"), ("m16n8k8", "tf32")}
_SHAPES |= {("m16n8k32", "s8"), ("m16n8k16", "s8")}


def _mma(reader: Reader, i: Instruction) -> Step:
    _, _, shape, *layout, to, kind, other, sums = i.modifiers
    saturate = kind == "s8" and layout[2:] == ["satfinite"]
    wanted = "s32" if kind == "s8" else "f32"
    if (shape, kind) not in _SHAPES or (to, other, sums) != (wanted, kind, wanted):
        raise UnsupportedError("mma")
    if layout != ["row", "col", *["satfinite"] * saturate]:
        raise UnsupportedError("mma")
    a, b = ([reader.value(x, np.uint32) for x in items(operand)] for operand in i.operands[1:3])
    c, targets = [reader.value(x, TYPES[sums]) for x in items(i.operands[3])], reader.targets(i.operands[0])
    columns = 16 // ITEM[kind]

    def multiply(blocks: Blocks, mask: Mask) -> None:
        blocks.require_whole(mask, WARP)

        def fragment(read: Read) -> Array:
            return unpacked(np.ascontiguousarray(blocks.full(read(blocks))), kind).reshape(-1, 8, columns)

        left = rows_of(list(map(fragment, a)))
        right = np.concatenate([fragment(read) for read in b], axis=2)
        product = np.matmul(left, right.swapaxes(1, 2)).reshape(-1, 2, 8, 4, 2)
        for k, target in enumerate(targets):
            part = np.ascontiguousarray(product[:, k >> 1, :, :, k & 1]).reshape(blocks.count, blocks.threads)
            blocks.set(target, accumulated(c[k](blocks), part, saturate), mask)

    return multiply


def rows_of(fragments: list[Array]) -> Array:
    """[n, 16, k] of fragments [n, 8, columns]: rows 0 to 7, then 8 to 15, then the next columns."""
    halves = [np.concatenate(fragments[k : k + 2], axis=1) for k in range(0, len(fragments), 2)]
    return np.concatenate(halves, axis=2)


def _shfl(reader: Reader, i: Instruction) -> Step:
    how, first = i.modifiers[1], i.operands[0]
    target = reader.target(first.first if isinstance(first, Pair) else first)
    valid = reader.target(first.second) if isinstance(first, Pair) else -1
    source, by, clamp = reader.value(i.operands[1], np.uint32), reader.value(i.operands[2], np.uint32), i.operands[3]
    segment, most = (number_of(clamp) >> 8) & 31, number_of(clamp) & 31
    lane = np.arange(WARP).reshape(1, -1)
    top, bottom = (lane & segment) | (most & ~segment), lane & segment

    def shuffle(blocks: Blocks, mask: Mask) -> None:
        blocks.require_whole(mask, WARP)
        x = np.ascontiguousarray(blocks.full(source(blocks))).reshape(-1, WARP)
        n = blocks.full(by(blocks)).astype(np.int64).reshape(-1, WARP)
        other = {"bfly": lane ^ n, "idx": bottom | (n & ~segment & 31), "up": lane - n, "down": lane + n}[how]
        found = other >= bottom if how == "up" else other <= top
        taken = np.take_along_axis(x, np.where(found, other, lane), axis=1)
        blocks.set(target, taken.reshape(blocks.count, blocks.threads), mask)
        blocks.set(valid, found.reshape(blocks.count, blocks.threads), mask)

    return shuffle


_REDUCED: dict[str, Any] = {"add": np.add, "min": np.minimum, "max": np.maximum}


def _redux(reader: Reader, i: Instruction) -> Step:
    """An integer of each thread of a warp, added up or the most or least of them, for all."""
    target, kind = reader.target(i.operands[0]), TYPES[i.type]
    source, combine = reader.value(i.operands[1], kind), _REDUCED[i.modifiers[1]]

    def reduce(blocks: Blocks, mask: Mask) -> None:
        blocks.require_whole(mask, WARP)
        x = np.ascontiguousarray(blocks.full(source(blocks))).reshape(-1, WARP)
        found = combine.reduce(x, axis=1, keepdims=True, dtype=kind)
        blocks.set(target, np.broadcast_to(found, x.shape).reshape(blocks.count, blocks.threads), mask)

    return reduce


def _elect(reader: Reader, i: Instruction) -> Step:
    """The first thread of each warp that takes part."""
    assert isinstance(i.operands[0], Pair)
    target, predicate = reader.target(i.operands[0].first), reader.target(i.operands[0].second)

    def elect(blocks: Blocks, mask: Mask) -> None:
        lanes = blocks.lanes(mask).reshape(blocks.count, -1, WARP)
        first = lanes.argmax(axis=2)[..., None]
        leader = (np.arange(WARP) == first) & lanes.any(axis=2, keepdims=True)
        blocks.set(predicate, leader.reshape(blocks.count, blocks.threads), mask)
        leaders = np.broadcast_to(first, leader.shape).astype(np.uint32)
        blocks.set(target, leaders.reshape(blocks.count, blocks.threads), mask)

    return elect


MATRICES: dict[str, Maker] = {
    "ldmatrix": _ldmatrix,
    "stmatrix": _stmatrix,
    "mma": _mma,
    "shfl": _shfl,
    "redux": _redux,
    "elect": _elect,
}
