"""setmaxnreg: registers that warps give back to a pool of their block, and take from it."""

from __future__ import annotations

import numpy as np

from tests.emulator.faults import FaultError
from tests.emulator.number_types import Array

_WARP, _WARPS = 32, 4  # threads of a warp, warps of a warpgroup


class Pool:
    """Of the blocks that run together. registers: that each thread is launched with; 0 if the kernel does not say."""

    def __init__(self, blocks: int, threads: int, registers: int) -> None:
        self._held = np.full((blocks, max(1, threads // _WARP)), registers)
        self._free = np.zeros(blocks, np.int64)  # times 32
        self._times = np.zeros_like(self._held)
        self.given = 0  # how often some were given back

    def give(self, lanes: Array, left: int) -> None:
        """Warps give back all but `left` registers of a thread."""
        warps = self._warps(lanes, left)
        if (warps & (self._held < left)).any():
            raise FaultError(f"a warp that is to give registers back has fewer than {left}")
        self._free += ((self._held - left) * warps).sum(axis=1)
        self._held[warps] = left
        self._times += warps
        self.given += 1

    def take(self, lanes: Array, wanted: int) -> Array:
        """Warps want to have `wanted` registers a thread: the lanes of those that have them now."""
        warps = self._warps(lanes, wanted)
        if (warps & (self._held > wanted)).any():
            raise FaultError(f"a warp that is to get registers has more than {wanted}")
        for block, warp in zip(*np.nonzero(warps), strict=True):
            missing = wanted - self._held[block, warp]
            if missing > self._free[block]:
                warps[block, warp] = False
                continue
            self._free[block] -= missing
            self._held[block, warp] = wanted
        self._times += warps
        return np.repeat(warps, _WARP, axis=1) & lanes

    def finish(self) -> None:
        """The blocks end. Raises FaultError if the warps of a warpgroup did not do the same."""
        if self._times.any():
            held, times = (x.reshape(len(x), -1, _WARPS) for x in (self._held, self._times))
            if (held != held[..., :1]).any() or (times != times[..., :1]).any():
                raise FaultError("setmaxnreg is executed by a part of a warpgroup")

    def _warps(self, lanes: Array, registers: int) -> Array:
        if not self._held.any():
            raise FaultError("setmaxnreg in a kernel without .maxnreg")
        if not 24 <= registers <= 256 or registers % 8:
            raise FaultError(f"setmaxnreg of {registers}")
        threads: Array = lanes.reshape(len(lanes), -1, _WARP)
        if (threads.any(axis=2) != threads.all(axis=2)).any():
            raise FaultError("a warp's instruction is executed by a part of it")
        return np.asarray(threads.all(axis=2))
