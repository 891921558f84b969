"""wgmma: products of a warpgroup, of operands that descriptors point to in shared memory.

A product may be done when it is issued, or not before it is waited for: then with what shared memory holds by then.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tests.emulator.arithmetic import Maker
from tests.emulator.blocks import WARP, WARPGROUP, Blocks, Mask
from tests.emulator.faults import FaultError, UnsupportedError
from tests.emulator.matrices import rows_of
from tests.emulator.number_types import ITEM, SUM, Array, accumulated, from_half, unpacked
from tests.emulator.operands import Reader, Step, items, number_of
from tests.emulator.ptx import Instruction, Vector
from tests.emulator.shared import BASE, swizzled

Read = Callable[[Array], Array]  # a matrix, [groups, rows, k], for the lanes that multiply it
Matrix = Callable[[Blocks, Array], Read]  # of the blocks and the lanes
_DEPTHS = {("f16", 16), ("bf16", 16), ("tf32", 8), ("s8", 32)}


def _wgmma(reader: Reader, i: Instruction) -> Step:
    match i.modifiers[0]:
        case "fence":
            return lambda blocks, mask: None
        case "commit_group":
            return lambda blocks, mask: blocks.queues.products.commit(blocks.lanes(mask))
        case "wait_group":
            left = number_of(i.operands[0])
            return lambda blocks, mask: blocks.queues.products.wait(blocks.lanes(mask), left)
    return _multiply(reader, i)


def _multiply(reader: Reader, i: Instruction) -> Step:
    shape = re.match(r"m64n(\d+)k(\d+)$", i.modifiers[3])
    kind = i.modifiers[5]
    if not shape or (kind, int(shape[2])) not in _DEPTHS or i.modifiers[4] != ("s32" if kind == "s8" else "f32"):
        raise UnsupportedError("wgmma")
    if list(i.modifiers[6:]) != [kind]:  # of bytes, it may also saturate
        raise UnsupportedError("wgmma")
    n, k, sums = int(shape[1]), int(shape[2]), SUM.get(kind, np.float32)
    keeps, scales = reader.value(i.operands[3], np.bool_), i.operands[4:6]
    if any(number_of(scale) != 1 for scale in scales):
        raise UnsupportedError("wgmma with a sign")
    *of_a, of_b = [bool(number_of(flag)) for flag in i.operands[6:]] or [False, False]
    left = _left(reader, i, k, kind, of_a[0] if of_a else False)
    right = _described(reader, i, 2, _Form(n, k, kind, of_b))
    targets = reader.targets(i.operands[0])

    def multiply(blocks: Blocks, mask: Mask) -> None:
        if blocks.threads % WARPGROUP:
            raise FaultError("wgmma in blocks of a part of a warpgroup")
        blocks.require_whole(mask, WARP)
        lanes = blocks.lanes(mask)
        blocks.queues.executed += lanes
        read_a, read_b, keep = left(blocks, lanes), right(blocks, lanes), keeps(blocks)

        def work(due: Array) -> None:
            product = np.matmul(read_a(due), read_b(due).swapaxes(1, 2)).reshape(-1, 4, 2, 8, n // 8, 4, 2)
            parts = np.ascontiguousarray(product.transpose(4, 2, 6, 0, 1, 3, 5))
            parts = parts.reshape(n // 2, blocks.count, blocks.threads)
            for part, target in zip(parts, targets, strict=True):
                old = blocks.registers[target]
                kept = np.zeros((1, 1), sums) if old is None else np.where(keep, old.view(sums), sums(0))
                blocks.set(target, accumulated(kept, part), due)

        if blocks.timing.late_products:
            blocks.queues.products.add(work, lanes)
        else:
            work(lanes)

    return multiply


def _left(reader: Reader, i: Instruction, k: int, kind: str, transposed: bool) -> Matrix:
    """A: 64 rows, in registers, 16 rows a warp, or in shared memory."""
    if not isinstance(i.operands[1], Vector):
        return _described(reader, i, 1, _Form(64, k, kind, transposed))
    reads = [reader.value(x, np.uint32) for x in items(i.operands[1])]
    columns = 16 // ITEM[kind]

    def matrix(blocks: Blocks, lanes: Array) -> Read:
        raw = [np.ascontiguousarray(blocks.full(read(blocks))) for read in reads]
        rows = rows_of([unpacked(part, kind).reshape(-1, 8, columns) for part in raw]).reshape(-1, 64, k)
        return lambda due: rows

    return matrix


@dataclass(frozen=True)
class _Form:
    """Of a matrix in shared memory. transposed: contiguous along its rows (MN-major), not along k."""

    rows: int
    depth: int
    kind: str
    transposed: bool

    @property
    def item(self) -> int:
        return ITEM[self.kind]


def _described(reader: Reader, i: Instruction, operand: int, form: _Form) -> Matrix:
    read = reader.value(i.operands[operand], np.uint64)

    def matrix(blocks: Blocks, lanes: Array) -> Read:
        of_group = blocks.full(read(blocks)).reshape(-1, WARPGROUP)
        active = lanes.reshape(-1, WARPGROUP)
        # Of groups that do not take part, whatever the first that does has.
        first = of_group[np.arange(len(of_group)), active.argmax(axis=1)]
        taking_part = active.any(axis=1)
        first = np.where(taking_part, first, first[taking_part][0])
        if ((of_group != first[:, None]) & active).any():
            raise FaultError("a wgmma's descriptor differs within a warpgroup")
        address = _addresses(first, form) - BASE
        if (address < 0).any() or (address + form.item > blocks.shared.size).any():
            raise FaultError(
                f"wgmma reads at {int(address.min())} to {int(address.max())} of {blocks.shared.size} bytes"
            )
        block = np.repeat(blocks.shared.first.reshape(-1), len(first) // blocks.count)
        index = (address + block[:, None, None]) // form.item

        def look(due: Array) -> Array:
            read = index[due.reshape(-1, WARPGROUP).any(axis=1)]
            blocks.shared.require_fenced(read[:, ::8] if form.transposed else read[..., ::8], form.item)
            raw = blocks.shared.words[form.item][index]
            return from_half(raw, form.kind) if form.item == 2 else unpacked(raw, form.kind)

        return look

    return matrix


def _addresses(descriptors: Array, form: _Form) -> Array:
    """Byte addresses [n, rows, depth] of the elements of the matrices that descriptors point to."""
    start, leading, stride = (
        (((descriptors >> np.uint64(at)) & np.uint64(0x3FFF)) << np.uint64(4)).astype(np.int64) for at in (0, 16, 32)
    )
    if ((descriptors >> np.uint64(49)) & np.uint64(7)).any():
        raise UnsupportedError("a wgmma descriptor with a base offset")
    mode = np.unique(descriptors >> np.uint64(62))
    if len(mode) > 1:
        raise UnsupportedError("wgmma descriptors of different swizzles")
    bits = (0, 3, 2, 1)[int(mode[0])]
    fixed, by_leading, by_stride = _offsets(form, bits)
    at = start[:, None, None] + fixed + by_leading * leading[:, None, None] + by_stride * stride[:, None, None]
    return swizzled(at, bits)


@lru_cache
def _offsets(form: _Form, bits: int) -> tuple[Array, Array, Array]:
    """Of each element: bytes, and how many times the descriptor's leading and stride offsets.

    The canonical layouts of the PTX ISA, with T = 16 / item elements in 16 bytes and W such columns in a swizzle span:
    K-major   W=1: ((8,m),(T,2)):((T,SBO),(1,LBO)), else ((8,m),(T,2)):((W*T,SBO),(1,T))
    MN-major  W=1: ((T,1,m),(8,k)):((1,T,SBO),(T,LBO)), else ((T,W,m),(8,k)):((1,T,LBO),(W*T,SBO))
    """
    wide, t = 1 << bits, 16 // form.item
    r, k = np.arange(form.rows)[:, None], np.arange(form.depth)[None, :]
    none = np.zeros((form.rows, form.depth), np.int64)
    if not form.transposed:
        fixed = (r % 8) * wide * 16 + (k % t) * form.item
        if bits:
            return fixed + (k // t) * 16, none, none + r // 8
        return fixed, none + k // t, none + r // 8
    fixed = (r % t) * form.item + (k % 8) * wide * 16
    if bits:
        return fixed + (r // t % wide) * 16, none + r // (t * wide), none + k // 8
    return fixed, none + k // 8, none + r // t


WGMMA: dict[str, Maker] = {"wgmma": _wgmma}
