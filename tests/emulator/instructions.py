"""Every instruction the emulator knows, and a program made executable: a function for each of its instructions."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from tests.emulator.access import ACCESS
from tests.emulator.arithmetic import ARITHMETIC
from tests.emulator.conversion import CONVERSION
from tests.emulator.faults import UnsupportedError
from tests.emulator.matrices import MATRICES
from tests.emulator.operands import Reader, Step
from tests.emulator.ptx import Instruction, Number, Program, Register, Symbol, parse
from tests.emulator.tma import TMA, tensor_copy, try_wait
from tests.emulator.wgmma import WGMMA

_MAKERS = ARITHMETIC | CONVERSION | ACCESS | MATRICES | TMA | WGMMA
_ORDERING = (
    "fence",
    "membar",
    "griddepcontrol",
)  # memory is in order here; a launch begins when the one before has ended


class Control(Enum):
    """Instructions that are the scheduler's."""

    BRANCH = "bra"
    RETURN = "ret"
    BARRIER = "bar.sync"


@dataclass(frozen=True)
class Executable:
    """A program, its instructions with what executes them, and the numbers of its registers."""

    program: Program
    code: list[tuple[Instruction, Step | Control]]
    registers: dict[str, int]

    def target(self, pc: int) -> int:
        """Where the branch at `pc` goes."""
        (label,) = self.code[pc][0].operands
        assert isinstance(label, Symbol)
        return self.program.labels[label.name]

    def written(self, instruction: Instruction) -> int:
        """The register that its first operand is."""
        assert isinstance(instruction.operands[0], Register)
        return self.registers[instruction.operands[0].name]


def executable(ptx: str) -> Executable:
    """Raises UnsupportedError, naming the instruction, for one that is not known."""
    program = parse(ptx)
    reader = Reader(program)
    code = []
    for instruction in program.code:
        if instruction.guard:
            reader.number(instruction.guard.register)
        try:
            code.append((instruction, _made(reader, instruction)))
        except (UnsupportedError, KeyError, ValueError) as error:
            raise UnsupportedError(f"{error}: {instruction.text}") from None
    return Executable(program, code, reader.registers)


def _made(reader: Reader, i: Instruction) -> Step | Control:
    match (i.name, *i.modifiers[:3]):
        case ("bra", *_):
            return Control.BRANCH
        case ("ret" | "exit", *_):
            return Control.RETURN
        case ("bar", "warp", "sync"):
            return lambda blocks, mask: None
        case ("bar" | "barrier", "sync") | ("bar" | "barrier", "cta", "sync") if i.operands == (Number(0),):
            return Control.BARRIER
        case ("mbarrier", "try_wait", *_):
            return try_wait(reader, i)
        case ("cp", "async", "bulk", "tensor"):
            return tensor_copy(reader, i)
    if i.name in _ORDERING:
        return lambda blocks, mask: None
    if i.name not in _MAKERS:
        raise UnsupportedError("an unknown instruction")
    return _MAKERS[i.name](reader, i)
