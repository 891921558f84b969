"""Shared memory of the blocks that run together, filled with NaN at first, and how its rows are swizzled.

wgmma sees it through the async proxy: what a thread stores, it may not see before a fence.proxy.async of that thread,
or of one that it has met at a barrier since. So it is noted who has stored where.
"""

from __future__ import annotations

import numpy as np

from tests.emulator.faults import FaultError
from tests.emulator.number_types import WORD, Array

BASE = 0x400  # where a block's memory begins: the first KiB is the system's
_NOTED = 16  # bytes for which one author is noted
_MET = -1
_PATTERN = 1024  # bytes after which the widest swizzle repeats: a block's memory begins at a multiple


class Shared:
    """`size` bytes for each of `blocks` blocks. Addresses are those of the block, as uint32."""

    def __init__(self, blocks: int, size: int) -> None:
        self.size = size
        self._pitch = -(-max(size, 16) // _PATTERN) * _PATTERN
        raw = np.full(blocks * self._pitch, 0xFF, np.uint8)
        self.words: dict[int, Array] = {size: raw.view(kind) for size, kind in WORD.items()}
        self._author = np.zeros(len(raw) // _NOTED, np.int32)  # 1 + thread; _MET if others know of it
        self._noted = False
        self.first = (np.arange(blocks, dtype=np.int64) * self._pitch).reshape(-1, 1)  # byte of each block

    def index(self, address: Array, size: int, mask: Array | None) -> Array:
        """The numbers of the words of `size` bytes at the blocks' addresses, [blocks, threads].

        Raises FaultError where the mask is on and the address is misaligned or beyond the end.
        """
        offset = address.view(np.uint32).astype(np.int64) - BASE
        bad = (offset < 0) | (offset + size > self.size) | (offset & (size - 1) != 0)
        if bad.any():
            bad = bad if mask is None else bad & mask
            if bad.any():
                where = np.broadcast_to(offset, bad.shape)[bad]
                raise FaultError(f"shared memory: {size} bytes at offset {int(where[0])} of {self.size}")
            offset = np.where(mask, offset, 0)  # type: ignore[arg-type]
        return np.asarray((offset + self.first) // size)

    def store(self, index: Array, size: int, values: Array, lanes: Array) -> None:
        """Words of `size` bytes by their numbers; index, values and lanes are [blocks, threads]."""
        self.words[size][index[lanes]] = values[lanes]
        self._author[index[lanes] * size // _NOTED] = 1 + np.nonzero(lanes)[1]
        self._noted = True

    def meet(self, lanes: Array) -> None:
        """These threads, who have met at a barrier, know of what each other has stored."""
        self._note(lanes, _MET)

    def fence(self, lanes: Array) -> None:
        """The async proxy sees what these threads know to be stored."""
        self._note(lanes, 0)

    def _note(self, lanes: Array, as_: int) -> None:
        if not self._noted:
            return
        noted = self._author.reshape(len(lanes), -1)
        block, place = np.nonzero(noted)
        author = noted[block, place]
        anybody = np.asarray(lanes.any(axis=1))
        known = np.where(author == _MET, anybody[block], lanes[block, author - 1])
        noted[block[known], place[known]] = as_
        self._noted = as_ != 0 or not known.all()

    def require_fenced(self, index: Array, size: int) -> None:
        """Raises FaultError if the async proxy may not see yet what is in one of these words."""
        if self._noted and self._author[index * size // _NOTED].any():
            raise FaultError("wgmma reads what was stored without a fence.proxy.async after it")


def swizzled(address: Array, bits: int) -> Array:
    """Addresses whose 16-byte columns are swizzled: 1, 2 or 3 bits for spans of 32, 64 and 128 bytes; 0 for none.

    The number of the column is xored with the number of the row of 128 bytes.
    """
    return address ^ ((address >> 3) & (((1 << bits) - 1) << 4)) if bits else address
