"""Runs a launch: which threads go on when, how they part at branches and meet again.

Threads that have parted are groups, each with a program counter and a mask. Groups at one place become one again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from tests.emulator.blocks import WARP, Blocks, Mask, Parameters, Timing
from tests.emulator.faults import FaultError, UnsupportedError
from tests.emulator.instructions import Control, Executable
from tests.emulator.memory import Allowed
from tests.emulator.number_types import Array

_AT_ONCE = 8192, 64 << 20  # threads, and bytes of shared memory, of blocks that run together
_MOST_STEPS, _MOST_VAIN_WAITS = 5_000_000, 1000
_SHORT = 32  # of a grid's second and third dimension
_ASIDE = 1 << 20  # added to a group's turn when it waits in vain: the others go first


@dataclass(frozen=True)
class Schedule:
    """One of the ways in which a GPU may run a launch; a right kernel gives the same answer in all.

    copies: when cp.async and TMA write: at issue, or not before they are waited for. products: when wgmma reads.
    warps:  all side by side, or each as far as it can go before the next, the first one or the last one first.
    blocks: their order; a number is the seed of a random one.
    places: only so many along each of the grid's dimensions, from the first to the last; 0 is all. Of a short one,
            which may count the parts of a sum, all.
    """

    copies: Literal["early", "late"] = "early"
    products: Literal["early", "late"] = "early"
    warps: Literal["together", "forward", "reverse"] = "together"
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

    def _along(self, size: int, short: int) -> Array:
        if not self.places or size <= short:
            return np.arange(size)
        return np.unique(np.linspace(0, size - 1, self.places).round().astype(np.int64))


EARLY, LATE = Schedule(), Schedule("late", "late", "together", "reverse")
MIXED = Schedule("early", "late", "forward", 7)  # copies overwrite what products have not yet read
REVERSE = Schedule("late", "early", "reverse", "forward")
SCHEDULES = (EARLY, LATE, MIXED, REVERSE)


def run(
    program: Executable,
    grid: tuple[int, int, int],
    shared_bytes: int,
    parameters: Parameters,
    regions: Allowed,
    schedule: Schedule = EARLY,
) -> int:
    """Runs the blocks. Returns how many instructions were executed, each for many threads.

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
            blocks = Blocks(program.program, registers, numbers, grid, shared_bytes, parameters, regions, timing)
            steps += _Scheduler(program, blocks, schedule).run()
    return steps


@dataclass(eq=False)
class _Group:
    """pc: the instruction that comes next. turn: whose is lowest goes on. parked: it waits at a block's barrier."""

    pc: int
    mask: Mask
    turn: int = 0
    parked: bool = False


class _Scheduler:
    """Runs blocks to their end."""

    def __init__(self, program: Executable, blocks: Blocks, schedule: Schedule) -> None:
        self._program, self._blocks = program, blocks
        self._groups = self._first_groups(schedule)
        self._steps = self._vain = 0

    def _first_groups(self, schedule: Schedule) -> list[_Group]:
        warps = self._blocks.threads // WARP
        if schedule.warps == "together" or warps == 1:
            return [_Group(0, None)]
        of_lane = np.arange(self._blocks.threads).reshape(1, -1) // WARP
        order = range(warps) if schedule.warps == "forward" else range(warps - 1, -1, -1)
        return [_Group(0, of_lane == warp, turn) for turn, warp in enumerate(order)]

    def run(self) -> int:
        while self._groups:
            ready = [group for group in self._groups if not group.parked]
            if not ready:
                raise FaultError("a barrier is waited for in vain")
            group = min(ready, key=lambda g: (g.turn, g.pc))
            # Where somebody waits to be met again.
            others = [g.pc for g in ready if g is not group and g.turn == group.turn]
            self._advance(group, min(others, default=-1))
            self._release()
            self._merge()
        self._blocks.finish()
        return self._steps

    def _advance(self, group: _Group, until: int) -> None:
        """Runs a group until something happens that others have to do with."""
        while True:
            instruction, step = self._program.code[group.pc]
            self._steps += 1
            if self._steps > _MOST_STEPS:
                raise FaultError(f"it does not end: {instruction.text}")
            active = self._active(group)
            if isinstance(step, Control):
                if self._control(step, group, active):
                    return
            elif self._any(active):
                try:
                    step(self._blocks, active)
                except (FaultError, UnsupportedError) as error:
                    raise type(error)(f"{error}, in {instruction.text[:120]}") from None
            group.pc += 1
            if instruction.modifiers[:1] == ("try_wait",) and self._waits(group, active):
                return
            if group.pc == until:
                return

    def _active(self, group: _Group) -> Mask:
        """Who of a group executes its next instruction."""
        guard = self._program.code[group.pc][0].guard
        if guard is None:
            return group.mask
        p = self._blocks.registers[self._program.registers[guard.register]]
        if p is None:
            raise FaultError(f"predicate {guard.register} was never set")
        p = ~p if guard.negated else p
        if p.all():
            return group.mask
        return p if group.mask is None else group.mask & p

    @staticmethod
    def _any(mask: Mask) -> bool:
        return mask is None or bool(mask.any())

    def _control(self, step: Control, group: _Group, active: Mask) -> bool:
        """Whether others must be looked at."""
        if step is Control.BARRIER:
            group.parked = len(self._groups) > 1
            return group.parked
        if active is group.mask:  # all of them
            if step is Control.RETURN:
                return self._end(group)
            group.pc = self._program.target(group.pc)
            return True
        staying = self._rest(group.mask, active)
        if step is Control.RETURN:
            group.mask = staying
            return not staying.any() and self._end(group)
        self._part(group, active, staying)
        return True

    def _end(self, group: _Group) -> bool:
        self._groups.remove(group)
        return True

    @staticmethod
    def _rest(mask: Mask, active: Mask) -> Array:
        assert active is not None
        return ~active if mask is None else mask & ~active

    def _part(self, group: _Group, leaving: Mask, staying: Array) -> None:
        """A branch that some take."""
        target = self._program.target(group.pc)
        if not staying.any():
            group.pc = target
        elif not self._any(leaving):
            group.pc += 1
        else:
            self._groups.append(_Group(group.pc + 1, staying, group.turn))
            group.pc, group.mask = target, leaving

    def _waits(self, group: _Group, active: Mask) -> bool:
        """After try_wait: whether some of them have to wait; then the others go first."""
        if not self._any(active):
            return False
        instruction = self._program.code[group.pc - 1][0]
        over = self._blocks.registers[self._program.written(instruction)]
        assert over is not None
        if (self._blocks.full(over) | ~self._blocks.lanes(active)).all():
            group.turn %= _ASIDE
            self._vain = 0
            return False
        self._vain += 1
        if self._vain > _MOST_VAIN_WAITS:
            raise FaultError(f"an mbarrier is waited for in vain: {instruction.text}")
        group.turn += _ASIDE
        return True

    def _release(self) -> None:
        """Lets those pass a barrier whose whole block is there."""
        parked = [group for group in self._groups if group.parked]
        if not parked:
            return
        absent = np.zeros(self._blocks.count, bool)
        for group in self._groups:
            if not group.parked:
                absent |= self._blocks.lanes(group.mask).any(axis=1)
        if absent.all():
            return
        for group in parked:
            lanes = self._blocks.lanes(group.mask)
            released, kept = lanes & ~absent[:, None], lanes & absent[:, None]
            if not released.any():
                continue
            if kept.any():
                self._groups.append(replace(group, mask=kept))
            group.pc, group.mask, group.parked = group.pc + 1, released, False

    def _merge(self) -> None:
        found: dict[tuple[int, int, bool], _Group] = {}
        for group in self._groups:
            other = found.setdefault((group.turn, group.pc, group.parked), group)
            if other is not group:
                either = None if other.mask is None or group.mask is None else other.mask | group.mask
                other.mask = either
        self._groups = list(found.values())
        if len(self._groups) == 1 and self._blocks.lanes(self._groups[0].mask).all():
            self._groups[0].mask = None
