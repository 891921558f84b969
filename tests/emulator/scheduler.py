"""Runs blocks to their end: which threads go on when, how they part at branches and meet again.

Threads that have parted are groups, each with a program counter and a mask. Groups at one place become one again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tests.emulator.blocks import Blocks, Mask
from tests.emulator.faults import FaultError, UnsupportedError
from tests.emulator.instructions import Control, Executable
from tests.emulator.number_types import Array
from tests.emulator.operands import number_of
from tests.emulator.ptx import Instruction

_MOST_STEPS, _MOST_VAIN_WAITS = 5_000_000, 1000
_ASIDE = 1 << 20  # added to a group's turn when it waits in vain: the others go first


@dataclass(eq=False)
class _Group:
    """pc: the instruction that comes next. turn: whose is lowest goes on. parked: it waits at a barrier."""

    pc: int
    mask: Mask
    turn: int = 0
    parked: bool = False


class Scheduler:
    """Runs blocks to their end. parts: the threads that begin as a group of their own, in the order of their turns."""

    def __init__(self, program: Executable, blocks: Blocks, parts: Sequence[Mask]) -> None:
        self._program, self._blocks = program, blocks
        self._groups = [_Group(0, mask, turn) for turn, mask in enumerate(parts)]
        self._steps = self._vain = 0

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
            before = self._blocks.changes
            try:
                if isinstance(step, Control):
                    if self._control(step, group, active):
                        return
                elif self._any(active):
                    step(self._blocks, active)
            except (FaultError, UnsupportedError) as error:
                raise type(error)(f"{error}, in {instruction.text[:120]}") from None
            group.pc += 1
            woken = self._blocks.changes != before and self._wake()
            if instruction.modifiers[:1] == ("try_wait",) and self._waits(group, active):
                return
            if woken or group.pc == until:
                return

    def _wake(self) -> bool:
        """Something has changed: those who waited in vain try again, when it is their turn."""
        waiting = [group for group in self._groups if group.turn >= _ASIDE]
        for group in waiting:
            group.turn %= _ASIDE
        self._vain = 0
        return bool(waiting)

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
            group.parked = len(self._groups) > 1 or self._program.barrier(group.pc)[1] > 0
            if not group.parked:
                self._blocks.shared.meet(self._blocks.lanes(group.mask))
            return group.parked
        if step is Control.INDEXED:
            self._choose(group)
            return True
        if step is Control.REGISTERS:
            return self._registers(group)
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

    def _choose(self, group: _Group) -> None:
        """A branch by an index."""
        register, targets = self._program.chosen(group.pc)
        index, lanes = self._blocks.registers[register], self._blocks.lanes(group.mask)
        assert index is not None
        chosen = self._blocks.full(index)
        numbers = np.unique(chosen[lanes]).tolist()
        if not 0 <= numbers[0] <= numbers[-1] < len(targets):
            raise FaultError(f"an indexed branch to {numbers} of {len(targets)} places")
        for number in numbers[1:]:
            self._groups.append(_Group(targets[number], lanes & (chosen == number), group.turn))
        group.pc, group.mask = targets[numbers[0]], lanes & (chosen == numbers[0])

    def _registers(self, group: _Group) -> bool:
        """setmaxnreg.inc: those whose block has none left wait."""
        instruction, lanes = self._program.code[group.pc][0], self._blocks.lanes(group.mask)
        served = self._blocks.pool.take(lanes, number_of(instruction.operands[0]))
        if (served == lanes).all():
            group.turn %= _ASIDE
            return False
        if served.any():
            self._groups.append(_Group(group.pc + 1, served, group.turn % _ASIDE))
            group.mask = lanes & ~served
        self._put_aside(group, instruction)
        return True

    def _put_aside(self, group: _Group, instruction: Instruction) -> None:
        """It waits for what is not there yet."""
        self._vain += 1
        if self._vain > _MOST_VAIN_WAITS:
            raise FaultError(f"something is waited for in vain: {instruction.text}")
        group.turn += _ASIDE

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
        self._put_aside(group, instruction)
        return True

    def _release(self) -> None:
        """Lets those pass a barrier for whom all are there that it waits for."""
        parked: dict[tuple[int, int], list[_Group]] = {}
        for group in self._groups:
            if group.parked:
                parked.setdefault(self._program.barrier(group.pc), []).append(group)
        for (_, threads), groups in parked.items():
            complete = self._complete(groups, threads)
            if not complete.any():
                continue
            for group in groups:
                lanes = self._blocks.lanes(group.mask)
                released, kept = lanes & complete[:, None], lanes & ~complete[:, None]
                if not released.any():
                    continue
                self._blocks.shared.meet(released)
                if kept.any():
                    self._groups.append(replace(group, mask=kept))
                group.pc, group.mask, group.parked = group.pc + 1, released, False

    def _complete(self, groups: list[_Group], threads: int) -> Array:
        """The blocks in which so many, or all that have not ended, are at the barrier where `groups` are."""
        there = self._count(groups)
        if not threads:
            return np.asarray(there == self._count(self._groups))
        if (there > threads).any():
            raise FaultError(f"{there.max()} threads at a barrier of {threads}")
        return np.asarray(there == threads)

    def _count(self, groups: list[_Group]) -> Array:
        """How many threads of each block are in them."""
        return np.asarray(sum(self._blocks.lanes(group.mask).sum(axis=1) for group in groups))

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
