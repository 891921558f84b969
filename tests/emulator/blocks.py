"""Blocks that run together: their registers, and all else that a block has.

A register is an array [blocks, threads], of extent 1 along an axis where all are equal. A mask, of the same form, says
which threads execute an instruction; None is all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tests.emulator.barriers import Barriers
from tests.emulator.faults import FaultError
from tests.emulator.memory import Allowed, BeforeWait
from tests.emulator.number_types import Array
from tests.emulator.pool import Pool
from tests.emulator.ptx import Program
from tests.emulator.queues import Queues
from tests.emulator.shared import BASE, Shared
from tests.emulator.tensor_maps import TensorMap

Mask = Array | None
PARAM_BASE, PARAM_PITCH = 0x7F00_0000_0000_0000, 12  # addresses of parameters, and the bits of a place in one
WARP, WARPGROUP = 32, 128


@dataclass(frozen=True)
class Parameters:
    """What a launch is given: the bytes of each parameter, and what those that are tensor maps describe."""

    raw: Sequence[bytes]
    maps: Mapping[int, TensorMap]

    def at(self, address: int, size: int) -> bytes:
        """`size` bytes at an address of parameter space."""
        number, offset = (address - PARAM_BASE) >> PARAM_PITCH, address & ((1 << PARAM_PITCH) - 1)
        if not 0 <= number < len(self.raw) or offset + size > len(self.raw[number]):
            raise FaultError("a read outside of the parameters")
        return self.raw[number][offset : offset + size]

    def tensor_map(self, address: int) -> TensorMap:
        """What the tensor map at that address describes."""
        number = (address - PARAM_BASE) >> PARAM_PITCH
        if number not in self.maps or address & ((1 << PARAM_PITCH) - 1):
            raise FaultError(f"parameter {number} is no tensor map")
        return self.maps[number]


@dataclass(frozen=True)
class Timing:
    """When asynchronous work takes place: late is not before it is waited for, else it is when it is issued."""

    late_copies: bool = False
    late_products: bool = False


class Blocks:
    """numbers: of the blocks in the grid. before: what a launch that begins early may touch before its wait."""

    def __init__(
        self,
        program: Program,
        registers: int,
        numbers: Sequence[int],
        grid: tuple[int, int, int],
        shared_bytes: int,
        parameters: Parameters,
        regions: Allowed,
        timing: Timing,
        before: BeforeWait | None = None,
    ) -> None:
        self.parameters, self.regions, self.timing = parameters, regions, timing
        self.count, self.threads = len(numbers), program.threads
        self.registers: list[Array | None] = [None] * registers
        self.special = _special(np.asarray(numbers, np.int64).reshape(-1, 1), self.threads, grid)
        self.shared = Shared(self.count, shared_bytes)
        self.barriers = Barriers()
        self.queues = Queues(self.count, self.threads)
        self.pool = Pool(self.count, self.threads, program.registers)
        self._before = before
        self._waited = np.full((self.count, self.threads), before is None)

    def full(self, value: Array) -> Array:
        """[blocks, threads]"""
        return np.broadcast_to(value, (self.count, self.threads))

    def lanes(self, mask: Mask) -> Array:
        """The mask, [blocks, threads]."""
        return self.full(np.ones((1, 1), bool) if mask is None else mask)

    def set(self, register: int, value: Array, mask: Mask) -> None:
        """Writes a register where the mask is on. A negative number is no register."""
        if register < 0:
            return
        if mask is None:
            self.registers[register] = value
            return
        old = self.registers[register]
        if old is None:
            old = np.zeros((1, 1), value.dtype)
        self.registers[register] = np.where(mask, value, old if old.dtype == value.dtype else old.view(value.dtype))

    def require_whole(self, mask: Mask, width: int) -> None:
        """Raises FaultError if a part of a warp, or of a warpgroup, executes what all of it must."""
        if mask is None or mask.shape[1] == 1:
            return
        lanes = self.lanes(mask).reshape(-1, width)
        if (lanes.any(axis=1) & ~lanes.all(axis=1)).any():
            raise FaultError("a warp's instruction is executed by a part of it")

    def allowed(self, mask: Mask) -> Allowed:
        """What these threads may touch now."""
        if self._before is None or self._waited[self.lanes(mask)].all():
            return self.regions
        return self._before

    def wait(self, mask: Mask) -> None:
        """These threads wait for earlier launches."""
        self._waited |= self.lanes(mask)

    def finish(self) -> None:
        """Raises FaultError if the blocks end with work under way that would write to their memory, or if one of them
        has never waited for earlier launches: then its end would not stand for theirs."""
        if not self._waited.any(axis=1).all():
            raise FaultError("a launch that begins early does not wait for earlier ones")
        self.barriers.finish()
        self.queues.finish()
        self.pool.finish()

    @property
    def changes(self) -> int:
        """Grows by what those who wait may wait for."""
        return self.barriers.phases + self.pool.given


def _special(number: Array, threads: int, grid: tuple[int, int, int]) -> dict[str, Array]:
    lane = np.arange(threads, dtype=np.int32).reshape(1, -1)
    one = np.ones((1, 1), np.int32)
    x, y, _ = grid
    of_block = {"x": number % x, "y": number // x % y, "z": number // (x * y)}
    return {
        "%tid.x": lane,
        "%tid.y": 0 * one,
        "%tid.z": 0 * one,
        "%ntid.x": threads * one,
        "%laneid": lane % WARP,
        "%warpid": lane // WARP,
        "global_smem": BASE * one,
        **{f"%ctaid.{axis}": at.astype(np.int32) for axis, at in of_block.items()},
        **{f"%nctaid.{axis}": size * one for axis, size in zip("xyz", grid, strict=True)},
    }
