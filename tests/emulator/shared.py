"""Shared memory of the blocks that run together, filled with NaN at first, and how its rows are swizzled."""

from __future__ import annotations

import numpy as np

from tests.emulator.faults import FaultError
from tests.emulator.number_types import WORD, Array

BASE = 0x400  # where a block's memory begins: the first KiB is the system's
_PATTERN = 1024  # bytes after which the widest swizzle repeats: a block's memory begins at a multiple


class Shared:
    """`size` bytes for each of `blocks` blocks. Addresses are those of the block, as uint32."""

    def __init__(self, blocks: int, size: int) -> None:
        self.size = size
        self._pitch = -(-max(size, 16) // _PATTERN) * _PATTERN
        raw = np.full(blocks * self._pitch, 0xFF, np.uint8)
        self.words: dict[int, Array] = {size: raw.view(kind) for size, kind in WORD.items()}
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


def swizzled(address: Array, bits: int) -> Array:
    """Addresses whose 16-byte columns are swizzled: 1, 2 or 3 bits for spans of 32, 64 and 128 bytes; 0 for none.

    The number of the column is xored with the number of the row of 128 bytes.
    """
    return address ^ ((address >> 3) & (((1 << bits) - 1) << 4)) if bits else address
