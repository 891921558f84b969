"""What a compiled kernel's machine code says of one of its programs: how long it keeps the parts of an SM busy, and how
long it takes by itself, from its first instruction to its last.

The instructions are counted, those of a loop as often as it goes round: a loop that multiplies on tensor cores as often
as makes the FLOPs that the launch says it has, another as often as the launch says (`kernels/frame/work.py`).

How long it takes by itself is a walk: its warps go through the code in step, each instruction when its operands are
there, so that every load that nothing hides, every wait and every barrier shows. Copies into shared memory, by threads
or by the copy engine, and the products of wgmma run beside it until they are waited for. Branches are taken not to be;
conflicts, the register file and misses of the instruction cache are not modelled.

Reading it takes NVIDIA's cuobjdump, which comes with Triton; where there is none, `disassembled` gives None.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from optgraph.base.devices import Device, Reached
from optgraph.kernels.frame.demand import Demand
from optgraph.kernels.frame.work import Program

_LINE = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?(U?P\w+)\s+)?([A-Z][\w.]*)(.*?);", re.MULTILINE)
_REGISTER = re.compile(r"\bU?[RP]\d+\b")

# Which part of an SM an instruction keeps busy, by its name; all take a slot of issue.
_PARTS = {
    "tensor": r"[HIQ]G?MMA",
    "fma": r"F(FMA|ADD|MUL)|H(FMA2|ADD2|MUL2)|IMAD|IDP",
    "alu": r"I(ADD|SETP|MNMX|ABS)|LEA|LOP3|PLOP|SHF|SEL|PRMT|SGXT|BMSK|MOV|V(IADD|IMNMX)"
    r"|F(MNMX|SETP|SEL|2FP|SET)|H(MNMX2|SETP2|SET2)",
    "conversion": r"F2[FI]|I2F|MUFU|FLO|POPC|FRND",
    "global": r"LDG|STG|LD$|ST$|ATOM|RED|LDGSTS",
    "shared": r"LDS|STS",
}
_PART = re.compile("|".join(f"(?P<{part}>{names})" for part, names in _PARTS.items()))
# Warps a clock that a part takes: 64 lanes a clock and SM for integers, comparisons and selections, 16 for conversions
# and transcendentals (CUDA C++ Programming Guide, "Arithmetic Instructions"). Multiply-adds are by the data sheet.
_ALU, _CONVERSION, _ISSUE = 2.0, 0.5, 4.0
_L1 = 128  # bytes a clock out of L1 and shared memory, which are one
# Clocks until a result may be used: arithmetic 4 to 6, shared memory and what else a warp shares with others 25 to 33,
# mma.sync 33 (Jia et al., arXiv:1804.06826; Luo et al., arXiv:2402.13499). A barrier and a fence: assumed.
_ARITHMETIC, _SHARED, _PRODUCT, _BARRIER = 5.0, 30.0, 33.0, 30.0
_WALKED = 8  # rounds of a loop: from then on all are like the later half of these


@dataclass(frozen=True)
class Instruction:
    """One of machine code. target: of a branch.  left: how many may still run when a wait is over.  writes, reads:
    registers."""

    address: int
    name: str
    target: int | None = None
    left: int = 0
    writes: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    commits: bool = False

    @cached_property
    def part(self) -> str:
        """What of an SM it keeps busy beside its issue; '' if nothing."""
        found = _PART.match(self.name)
        return str(found.lastgroup) if found else ""

    @cached_property
    def wgmma(self) -> bool:
        return re.match(r"[HIQ]GMMA", self.name) is not None

    @cached_property
    def product(self) -> int:
        """FLOPs of the warp's, or of a group of four warps' for wgmma, on the tensor cores."""
        if found := re.match(r"[HIQ]GMMA\.(?:SP\.)?64x(\d+)x(\d+)", self.name):
            return 2 * 64 * int(found[1]) * int(found[2])
        found = re.match(r"[HIQ]MMA\.168(\d+)", self.name)
        return 2 * 16 * 8 * int(found[1]) if found else 0

    @cached_property
    def lane_bytes(self) -> int:
        """That each lane loads or stores."""
        if self.name.startswith(("LDSM", "STSM")):
            return 4 * int(self.name[-1]) if self.name[-1] in "124" else 4
        found = re.search(r"\.(128|64|U16|S16|U8|S8|16)\b", self.name)
        return {"128": 16, "64": 8}.get(found[1], 2) if found else 4


@dataclass(frozen=True, eq=False)
class Loop:
    """body: instructions, and the loops inside."""

    body: tuple[Instruction | Loop, ...]

    @property
    def flat(self) -> Iterator[Instruction]:
        """Its instructions, those inside the loops in it once."""
        for item in self.body:
            yield from item.flat if isinstance(item, Loop) else (item,)

    @cached_property
    def own(self) -> tuple[Instruction, ...]:
        """Its instructions, without those of the loops inside."""
        return tuple(item for item in self.body if isinstance(item, Instruction))

    @cached_property
    def own_product(self) -> int:
        """FLOPs of one round, of a warp or a group of them."""
        return sum(one.product for one in self.own)

    @cached_property
    def own_fetched(self) -> int:
        """Bytes that a warp loads in one round."""
        return sum(32 * one.lane_bytes for one in self.own if one.name.startswith("LDG."))


@dataclass(frozen=True, eq=False)
class Machine:
    """A compiled kernel: its code, the warps of a block, and the blocks that an SM holds at once."""

    code: Loop
    warps: int
    resident: int


def disassembled(code: bytes) -> Loop | None:
    """The machine code in a cubin as a loop that goes round once; None where nothing can read it, or where some warps
    go another way than others, so that no walk in step tells how long they take."""
    triton = find_spec("triton")
    if triton is None or not triton.submodule_search_locations:
        return None
    tool = Path(triton.submodule_search_locations[0], "backends", "nvidia", "bin", "cuobjdump")
    try:
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(code)
            file.flush()
            done = subprocess.run([tool, "-sass", file.name], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    found = listed(done.stdout)
    return None if not found or any(one.name.startswith("BRX") for one in found) else nested(found)


def listed(text: str) -> list[Instruction]:
    """The instructions in what cuobjdump or nvdisasm prints."""
    found = []
    for address, guard, name, rest in _LINE.findall(text):
        number = re.search(r"0x([0-9a-f]+)\s*$", rest)
        last = int(number[1], 16) if number else 0
        writes, reads = _operands(name, rest)
        found.append(
            Instruction(
                int(address, 16),
                name,
                last if number and name.startswith("BRA") else None,
                last if "DEPBAR" in name else 0,
                writes,
                (*reads, guard) if guard else reads,
                "gsb0" in rest,
            )
        )
    return found


def _operands(name: str, rest: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The registers written, by a load several, and read: the first operand is written, and a predicate behind it."""
    operands = rest.split(",")
    named = [_REGISTER.findall(operand) for operand in operands]
    if name.startswith(("ST", "RED", "BRA", "BAR", "EXIT")) or operands[0].strip().startswith("["):
        return (), tuple(r for registers in named for r in registers)
    count = 1 + (len(operands) > 1 and re.fullmatch(r"\s*!?U?P\w+\s*", operands[1]) is not None)
    writes = [r for registers in named[:count] for r in registers]
    if writes and writes[0].startswith("R") and name.startswith("LD"):
        first = int(writes[0][1:])
        writes = [f"R{first + i}" for i in range(max(1, Instruction(0, name).lane_bytes // 4))]
    return tuple(writes), tuple(r for registers in named[count:] for r in registers)


def nested(code: Sequence[Instruction]) -> Loop:
    """The code by its loops: from where a branch goes back to, to that branch. What comes after the last exit, where
    waits go on that were not over at once, is left out."""
    end = max((i for i, one in enumerate(code) if one.name == "EXIT"), default=len(code) - 1) + 1
    index = {one.address: i for i, one in enumerate(code)}
    last: dict[int, int] = {}
    for i, one in enumerate(code[:end]):
        if one.target is not None and one.target in index and index[one.target] < i:
            last[index[one.target]] = i

    def body(first: int, stop: int) -> tuple[Instruction | Loop, ...]:
        items: list[Instruction | Loop] = []
        i = first
        while i < stop:
            after = last.get(i, -1) + 1
            if after and (i, after) != (first, stop) and after <= stop:
                items.append(Loop(body(i, after)))
                i = after
            else:
                items.append(code[i])
                i += 1
        return tuple(items)

    return Loop(body(0, end))


def main_loop(code: Loop) -> Loop:
    """The innermost loop that multiplies on tensor cores, or else the longest; all of the code if it has none."""
    loops = list(_loops(code)) or [code]
    multiplying = [loop for loop in loops if loop.own_product]
    return max(multiplying or loops, key=lambda loop: len(loop.own) if multiplying else len(list(loop.flat)))


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
            # B of 64×N×16 is 32 N bytes out of shared memory, once for four warps.
            fetched += times * one.product / (2 * 64 * 16) * 32 / 4
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
    made = groups * sum(loop.own_product for loop in _loops(whole))
    fetched = machine.warps * sum(loop.own_fetched for loop in _loops(whole))
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


def _loops(around: Loop) -> Iterator[Loop]:
    """The loops inside, at any depth."""
    for item in around.body:
        if isinstance(item, Loop):
            yield item
            yield from _loops(item)


class _Walk:
    """The warps of one program on their way through its code, in step.  clocks: that it takes them."""

    def __init__(self, machine: Machine, program: Program, device: Device, reached: Reached) -> None:
        self._reached, self._warps = reached, machine.warps
        self._interval = max(1.0, machine.warps / 4) / reached.issue
        self._mma = 4096 / (device.fma / 2)  # clocks of a scheduler's tensor core for 4,096 FLOPs
        self._rounds = _rounds(machine, program)
        self._now = self._skipped = self._tensor = 0.0
        self._ready: dict[str, float] = {}
        self._copied, self._groups = 0.0, deque[float]()  # by threads into shared memory: the last, and by commit
        self._boxes = deque[float]()  # by the copy engine
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
            self._boxes.append(at + load)
        elif "PHASECHK" in name:
            for _ in range(min(boxes, len(self._boxes))):
                at = max(at, self._boxes.popleft())
        elif one.wgmma:
            self._tensor = max(self._tensor, at) + one.product / 4096 * self._warps / 4
            if one.commits:
                self._products.append(self._tensor + _PRODUCT)
        elif name.startswith("WARPGROUP.DEPBAR"):
            while len(self._products) > one.left:
                at = max(at, self._products.popleft())
        elif one.part == "tensor":
            self._tensor = max(self._tensor, at) + self._mma * one.product / 4096 * self._warps / 4
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
