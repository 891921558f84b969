"""What a program of a compiled kernel demands of an SM: how long it keeps the parts of one busy, and how long it takes
by itself, from its first instruction to its last.

The instructions are counted, those of a loop as often as it goes round: a loop that multiplies on tensor cores as often
as makes the FLOPs that the launch says it has, another as often as the launch says (`kernels/frame/work.py`), and one
of which nothing is known once.

How long it takes by itself is a walk: its warps go through the code in step, each instruction when its operands are
there, so that every load that nothing hides, every wait and every barrier shows. Copies into shared memory, by threads
or by the copy engine, and the products of wgmma run beside it until they are waited for; the copy engine's arrive one
after the other, at the rate of an SM's port to L2. Branches are taken not to be;
conflicts, the register file and misses of the instruction cache are not modelled.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from optgraph.base.devices import Device, Reached
from optgraph.cost.machine_code import Instruction, Loop, loops
from optgraph.kernels.frame.demand import Demand
from optgraph.kernels.frame.work import Program

# Warps a clock that a part takes: 64 lanes a clock and SM for integers, comparisons and selections, 16 for conversions
# and transcendentals (CUDA C++ Programming Guide, "Arithmetic Instructions"). Multiply-adds are by the data sheet.
_ALU, _CONVERSION, _ISSUE = 2.0, 0.5, 4.0
_L1 = 128  # bytes a clock out of L1 and shared memory, which are one
# Clocks until a result may be used: arithmetic 4 to 6, shared memory and what else a warp shares with others 25 to 33,
# mma.sync 33 (Jia et al., arXiv:1804.06826; Luo et al., arXiv:2402.13499). A barrier and a fence: assumed.
_ARITHMETIC, _SHARED, _PRODUCT, _BARRIER = 5.0, 30.0, 33.0, 30.0
_WALKED = 8  # rounds of a loop: from then on all are like the later half of these


@dataclass(frozen=True, eq=False)
class Machine:
    """A compiled kernel: its code, the warps of a block, and the blocks that an SM holds at once."""

    code: Loop
    warps: int
    resident: int


def demand(machine: Machine, program: Program, dtype: str, device: Device, reached: Reached) -> Demand:
    """What a program of the kernel takes of an SM."""
    counted, fetched = defaultdict[str, float](float), 0.0
    for one, times in _repeated(machine, program):
        counted["issue"] += times
        counted[one.part] += times
        if one.part in ("global", "shared"):
            # A load or store goes to L1 at most once a clock.
            fetched += times * max(_L1, 32 * one.lane_bytes)
        elif one.wgmma:
            fetched += times * one.wgmma * 32 / 4  # a column is 32 bytes of shared memory, for four warps
    lanes = device.flops["fp32"] / (2 * device.sms * device.clock)
    slots = {
        "issue": counted["issue"] / _ISSUE,
        "alu": counted["alu"] / _ALU,
        "fma": counted["fma"] * 32 / lanes,
        "conversion": counted["conversion"] / _CONVERSION,
    }
    parts = {
        "tensor cores": reached.multiplying(program.product, dtype, device, _by_groups(machine.code)),
        "instructions": machine.warps * max(slots.values()) / reached.issue,
        "L1": machine.warps * fetched / _L1,
    }
    return Demand(program.bytes, parts, _Walk(machine, program, device, reached).clocks, machine.resident)


def _repeated(machine: Machine, program: Program) -> Iterator[tuple[Instruction, float]]:
    """Every instruction, and how often a warp comes to it."""
    rounds = _rounds(machine, program)

    def within(loop: Loop, times: float) -> Iterator[tuple[Instruction, float]]:
        for item in loop.body:
            if isinstance(item, Loop):
                yield from within(item, times * rounds(item, loop))
            else:
                yield item, times

    yield from within(machine.code, 1.0)


def _rounds(machine: Machine, program: Program) -> Callable[[Loop, Loop], float]:
    """How often a loop goes round, each time that the loop around it does. One that nothing is known of: once."""
    whole = machine.code
    groups = machine.warps / (4 if _by_groups(whole) else 1)
    made = groups * sum(loop.own_product for loop in loops(whole))
    fetched = machine.warps * sum(loop.own_fetched for loop in loops(whole))
    if made:
        steps = (program.product - groups * whole.own_product) / made
    else:
        steps = program.steps or (program.bytes / fetched if fetched else 1.0)

    def rounds(loop: Loop, around: Loop) -> float:
        if around.own_product or (not made and around is not whole):
            return program.rows
        return max(1.0, steps) if loop.own_product or (loop.own_fetched and not made) else 1.0

    return rounds


def _by_groups(code: Loop) -> bool:
    """Whether it multiplies by groups of four warps."""
    return any(one.wgmma for one in code.flat)


class _Walk:
    """The warps of one program on their way through its code, in step.  clocks: that it takes them."""

    def __init__(self, machine: Machine, program: Program, device: Device, reached: Reached) -> None:
        self._reached, self._warps = reached, machine.warps
        self._interval = max(1.0, machine.warps / 4) / reached.issue
        self._mma = 4096 / (device.fma / 2)  # clocks of a scheduler's tensor core for 4,096 FLOPs in 16 bits
        self._bytes = device.fma / device.fma8  # what a FLOP of int8 takes, in those of 16 bits
        self._rounds = _rounds(machine, program)
        self._now = self._skipped = self._tensor = 0.0
        self._ready: dict[str, float] = {}
        self._copied, self._groups = 0.0, deque[float]()  # by threads into shared memory: the last, and by commit
        self._boxes, self._arrived = deque[float](), -math.inf  # by the copy engine, and the last of them
        boxes = sum(times for one, times in _repeated(machine, program) if one.name.startswith("UTMALDG"))
        self._box = program.bytes / boxes / reached.port if boxes else 0.0  # clocks that one takes
        self._products = deque[float]()  # of wgmma, by commit
        self._go(machine.code, 1.0)
        self.clocks = self._now + self._skipped

    def _go(self, loop: Loop, rounds: float) -> None:
        waits = sum("PHASECHK" in one.name for one in loop.own)
        boxes = max(1, sum(one.name.startswith("UTMALDG") for one in loop.own) // max(1, waits))
        before = 0.0
        for i in range(min(_WALKED, round(rounds))):
            if i == _WALKED // 2:
                before = self._now + self._skipped
            for item in loop.body:
                if isinstance(item, Loop):
                    self._go(item, self._rounds(item, loop))
                else:
                    self._step(item, boxes)
        if rounds > _WALKED:
            self._skipped += (rounds - _WALKED) * (self._now + self._skipped - before) / (_WALKED / 2)

    def _step(self, one: Instruction, boxes: int) -> None:
        name, load = one.name, self._reached.load
        at = max([self._now + self._interval, *(self._ready[r] for r in one.reads if r in self._ready)])
        after = _ARITHMETIC
        if name.startswith(("LDGSTS", "LDGDEPBAR")):
            if name.startswith("LDGSTS"):
                self._copied = at + load
            else:
                self._groups.append(self._copied)
        elif name.startswith("DEPBAR"):
            while len(self._groups) > one.left:
                at = max(at, self._groups.popleft())
        elif name.startswith("UTMALDG"):
            self._arrived = max(at + load, self._arrived + self._box)
            self._boxes.append(self._arrived)
        elif "PHASECHK" in name:
            for _ in range(min(boxes, len(self._boxes))):
                at = max(at, self._boxes.popleft())
        elif one.wgmma:
            self._tensor = max(self._tensor, at) + one.wgmma / 2 * self._warps / 4
            if one.commits:
                self._products.append(self._tensor + _PRODUCT)
        elif name.startswith("WARPGROUP.DEPBAR"):
            while len(self._products) > one.left:
                at = max(at, self._products.popleft())
        elif one.part == "tensor":
            halves = one.product * (2 if "TF32" in name else self._bytes if name.startswith("IMMA") else 1)
            self._tensor = max(self._tensor, at) + self._mma * halves / 4096 * self._warps / 4
            after = self._tensor - at + _PRODUCT
        elif name.startswith(("BAR", "MEMBAR")):
            at += _BARRIER
        elif one.part == "global":
            after = load
        elif one.part in ("shared", "conversion") or name.startswith(("S2", "R2UR", "SHFL")):
            after = _SHARED
        for register in one.writes:
            self._ready[register] = at + after
        self._now = at
