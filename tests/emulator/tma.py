"""Instructions of mbarriers and of the copy engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.emulator.arithmetic import Maker
from tests.emulator.barriers import Key
from tests.emulator.blocks import Blocks, Mask
from tests.emulator.faults import FaultError, UnsupportedError
from tests.emulator.number_types import Array
from tests.emulator.operands import Read, Reader, Step, number_of
from tests.emulator.ptx import SINK, Address, Instruction
from tests.emulator.shared import BASE, swizzled
from tests.emulator.tensor_maps import TensorMap

_FORM = ("global", "mbarrier::complete_tx::bytes")
_ALIGNMENT = 128  # of what the copy engine writes


def tensor_copy(reader: Reader, i: Instruction) -> Step:
    """cp.async.bulk.tensor: a box of a tensor into shared memory, complete on an mbarrier."""
    _, _, _, dimensions, place, *form = i.modifiers
    if place not in ("shared::cta", "shared::cluster") or tuple(form) != _FORM:
        raise UnsupportedError("a form of cp.async.bulk.tensor")
    source = i.operands[1]
    assert isinstance(source, Address)
    rank = int(dimensions[0])
    if len(source.coordinates) != rank:
        raise FaultError("coordinates of another rank than the copy's")
    to, barrier, which = (
        reader.address(i.operands[0]),
        reader.address(i.operands[2]),
        reader.value(source.base, np.uint64),
    )
    corner = [reader.value(c, np.int32) for c in source.coordinates]

    def copy(blocks: Blocks, mask: Mask) -> None:
        allowed = blocks.allowed(mask)
        for block, thread in _taking_part(blocks, mask):
            place, key, at, *where = (
                int(blocks.full(read(blocks))[block, thread]) for read in (to, barrier, which, *corner)
            )
            tensor = blocks.parameters.tensor_map(at)
            if len(tensor.sizes) != rank:
                raise FaultError(f"a tensor map of rank {len(tensor.sizes)} is used as one of {rank}")

            def make(block: int = block, place: int = place, tensor: TensorMap = tensor, where: Any = where) -> int:
                return _write(blocks, block, place, tensor.fetch(where, allowed), tensor.swizzle)

            blocks.barriers.copy((block, key), make, blocks.timing.late_copies)

    return copy


def _write(blocks: Blocks, block: int, place: int, data: Array, swizzle: int) -> int:
    """Bytes to shared memory; returns how many."""
    if place % _ALIGNMENT:
        raise FaultError(f"the copy engine is to write at {place:#x}, which {_ALIGNMENT} does not divide")
    if place < BASE or place - BASE + data.size > blocks.shared.size:
        raise FaultError(
            f"the copy engine is to write {data.size} bytes at offset {place - BASE} of {blocks.shared.size}"
        )
    chunks = data.view(np.complex128)
    address = swizzled(place + 16 * np.arange(chunks.size, dtype=np.int64), swizzle) - BASE
    blocks.shared.words[16][(blocks.shared.first[block, 0] + address) // 16] = chunks
    return int(data.size)


def _mbarrier(reader: Reader, i: Instruction) -> Step:
    match i.modifiers[0]:
        case "init":
            at, expected = reader.address(i.operands[0]), number_of(i.operands[1])

            def init(blocks: Blocks, mask: Mask) -> None:
                blocks.shared.index(at(blocks), 8, mask)  # is it in shared memory, on 8 bytes?
                for key, _ in _keys(blocks, mask, at):
                    blocks.barriers.init(key, expected)

            return init
        case "inval":
            at = reader.address(i.operands[0])

            def invalidate(blocks: Blocks, mask: Mask) -> None:
                for key, _ in _keys(blocks, mask, at):
                    blocks.barriers.invalidate(key)

            return invalidate
        case "arrive" if i.operands[0] == SINK:
            return _arrive(reader, i)
    raise UnsupportedError("mbarrier")


def _arrive(reader: Reader, i: Instruction) -> Step:
    at = reader.address(i.operands[1])
    bytes_ = reader.value(i.operands[2], np.uint32) if "expect_tx" in i.modifiers else None

    def arrive(blocks: Blocks, mask: Mask) -> None:
        announced = blocks.full(bytes_(blocks) if bytes_ else np.zeros((1, 1), np.uint32))
        for key, thread in _keys(blocks, mask, at):
            blocks.barriers.arrive(key, int(announced[key[0], thread]))

    return arrive


def try_wait(reader: Reader, i: Instruction) -> Step:
    """mbarrier.try_wait.parity: the predicate says for each thread whether its phase is over."""
    if i.modifiers[1] != "parity":
        raise UnsupportedError("mbarrier.try_wait")
    target, at = reader.target(i.operands[0]), reader.address(i.operands[1])
    parity = reader.value(i.operands[2], np.uint32)

    def wait(blocks: Blocks, mask: Mask) -> None:
        over = np.ones((blocks.count, blocks.threads), bool)
        wanted = blocks.full(parity(blocks)) & 1
        known: dict[tuple[Key, int], bool] = {}
        for key, thread in _keys(blocks, mask, at):
            asked = key, int(wanted[key[0], thread])
            if asked not in known:
                known[asked] = blocks.barriers.is_over(*asked)
            over[key[0], thread] = known[asked]
        blocks.set(target, over, mask)

    return wait


def _taking_part(blocks: Blocks, mask: Mask) -> Iterator[tuple[int, int]]:
    """Block and thread of all who execute it."""
    block, thread = (axis.tolist() for axis in np.nonzero(blocks.lanes(mask)))
    yield from zip(block, thread, strict=True)


def _keys(blocks: Blocks, mask: Mask, at: Read) -> Iterator[tuple[Key, int]]:
    """The mbarrier of each thread, and the thread."""
    address = blocks.full(at(blocks))
    for block, thread in _taking_part(blocks, mask):
        yield (block, int(address[block, thread])), thread


TMA: dict[str, Maker] = {"mbarrier": _mbarrier}
