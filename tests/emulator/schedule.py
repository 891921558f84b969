"""Runs a launch, in one of the ways in which a GPU may."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tests.emulator.blocks import WARP, Blocks, Mask, Parameters, Timing
from tests.emulator.instructions import Executable
from tests.emulator.memory import Allowed, BeforeWait
from tests.emulator.number_types import Array
from tests.emulator.scheduler import Scheduler

_AT_ONCE = 8192, 64 << 20  # threads, and bytes of shared memory, of blocks that run together
_SHORT = 32  # of a grid's second and third dimension


@dataclass(frozen=True)
class Schedule:
    """One of the ways in which a GPU may run a launch; a right kernel gives the same answer in all.

    copies: when cp.async and TMA write: at issue, or not before they are waited for. products: when wgmma reads.
    warps:  all side by side, or each as far as it can go before the next: the first one first, the last one first, or
            inward: the last, the first, the last but one and so on, which mixes warps that do different things.
    blocks: their order; a number is the seed of a random one.
    places: only so many along each of the grid's dimensions, from the first to the last; 0 is all. Of a short one,
            which may count the parts of a sum, all.
    """

    copies: Literal["early", "late"] = "early"
    products: Literal["early", "late"] = "early"
    warps: Literal["together", "forward", "reverse", "inward"] = "together"
    blocks: Literal["forward", "reverse"] | int = "forward"
    places: int = 0

    def order(self, grid: tuple[int, int, int]) -> Array:
        """The numbers of the blocks that run, in their order."""
        x, y, z = (self._along(size, _SHORT * bool(axis)) for axis, size in enumerate(grid))
        order: Array = ((z[:, None, None] * grid[1] + y[:, None]) * grid[0] + x).reshape(-1)
        if self.blocks == "reverse":
            return order[::-1]
        if self.blocks != "forward":
            np.random.default_rng(self.blocks).shuffle(order)
        return order

    def parts(self, threads: int) -> list[Mask]:
        """The threads of a block that begin together, those first that are to go first."""
        warps = threads // WARP
        if self.warps == "together" or warps == 1:
            return [None]
        of_lane = np.arange(threads).reshape(1, -1) // WARP
        order = list(range(warps)) if self.warps == "forward" else list(range(warps - 1, -1, -1))
        if self.warps == "inward":
            order = [warp for pair in zip(order, order[::-1], strict=True) for warp in pair][:warps]
        return [of_lane == warp for warp in order]

    def _along(self, size: int, short: int) -> Array:
        if not self.places or size <= short:
            return np.arange(size)
        return np.unique(np.linspace(0, size - 1, self.places).round().astype(np.int64))


EARLY, LATE = Schedule(), Schedule("late", "late", "together", "reverse")
MIXED = Schedule("early", "late", "forward", 7)  # copies overwrite what products have not yet read
REVERSE = Schedule("late", "early", "reverse", "forward")
# Where warps are specialised, those who fill shared memory before some of those who read it, and the other way round.
HASTY = Schedule("early", "late", "inward", "forward")
SCHEDULES = (EARLY, LATE, MIXED, REVERSE, HASTY)


def run(
    program: Executable,
    grid: tuple[int, int, int],
    shared_bytes: int,
    parameters: Parameters,
    regions: Allowed,
    schedule: Schedule = EARLY,
    before: BeforeWait | None = None,
) -> int:
    """Runs the blocks. Returns how many instructions were executed, each for many threads.

    before: what a launch that begins early may touch before it waits for earlier ones.

    Raises FaultError for what a GPU would not do, UnsupportedError for what the emulator does not know.
    """
    order = schedule.order(grid)
    threads, shared = _AT_ONCE
    together = max(1, min(threads // program.program.threads, shared // max(shared_bytes, 1)))
    timing = Timing(schedule.copies == "late", schedule.products == "late")
    steps = 0
    with np.errstate(all="ignore"):
        for first in range(0, len(order), together):
            numbers = order[first : first + together].tolist()
            registers = len(program.registers)
            blocks = Blocks(
                program.program, registers, numbers, grid, shared_bytes, parameters, regions, timing, before
            )
            steps += Scheduler(program, blocks, schedule.parts(blocks.threads)).run()
    return steps
