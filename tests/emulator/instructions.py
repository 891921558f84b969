"""Every instruction the emulator knows, and a program made executable: a function for each of its instructions."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from tests.emulator.access import ACCESS, prefetch
from tests.emulator.arithmetic import ARITHMETIC
from tests.emulator.conversion import CONVERSION
from tests.emulator.faults import UnsupportedError
from tests.emulator.matrices import MATRICES
from tests.emulator.operands import Reader, Step, number_of
from tests.emulator.ptx import Instruction, Number, Program, Register, Symbol, parse
from tests.emulator.tma import TMA, tensor_copy, try_wait
from tests.emulator.wgmma import WGMMA

_MAKERS = ARITHMETIC | CONVERSION | ACCESS | MATRICES | TMA | WGMMA
_ORDERING = ("fence", "membar")  # memory is in order here


class Control(Enum):
    """Instructions that are the scheduler's."""

    BRANCH = "bra"
    INDEXED = "brx.idx"
    RETURN = "ret"
    BARRIER = "bar.sync"
    REGISTERS = "setmaxnreg.inc"


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

    def chosen(self, pc: int) -> tuple[int, list[int]]:
        """Of the indexed branch at `pc`: the register that chooses, and where it may go."""
        index, table = self.code[pc][0].operands
        assert isinstance(index, Register) and isinstance(table, Symbol)
        return self.registers[index.name], [self.program.labels[name] for name in self.program.tables[table.name]]

    def barrier(self, pc: int) -> tuple[int, int]:
        """Of the barrier at `pc`: its number, and the threads that it waits for; 0 for all."""
        number, *threads = map(number_of, self.code[pc][0].operands)
        return number, threads[0] if threads else 0

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
        case ("brx", "idx", *_):
            return Control.INDEXED
        case ("ret" | "exit", *_):
            return Control.RETURN
        case ("bar", "warp", "sync"):
            return lambda blocks, mask: None
        case ("bar" | "barrier", "sync") | ("bar" | "barrier", "cta", "sync") if _numbers(i):
            return Control.BARRIER
        case ("setmaxnreg", "inc", *_):
            return Control.REGISTERS
        case ("setmaxnreg", "dec", *_):
            left = number_of(i.operands[0])
            return lambda blocks, mask: blocks.pool.give(blocks.lanes(mask), left)
        case ("fence", "proxy", "async", *_):
            return lambda blocks, mask: blocks.shared.fence(blocks.lanes(mask))
        case ("griddepcontrol", "wait"):
            return lambda blocks, mask: blocks.wait(mask)
        case ("griddepcontrol", "launch_dependents"):
            return lambda blocks, mask: None  # whether the next launch is there yet makes no difference to this one
        case ("mbarrier", "try_wait", *_):
            return try_wait(reader, i)
        case ("cp", "async", "bulk", "prefetch"):
            return prefetch(reader, i)
        case ("cp", "async", "bulk", "tensor"):
            return tensor_copy(reader, i)
    if i.name in _ORDERING:
        return lambda blocks, mask: None
    if i.name not in _MAKERS:
        raise UnsupportedError("an unknown instruction")
    return _MAKERS[i.name](reader, i)


def _numbers(i: Instruction) -> bool:
    return all(isinstance(operand, Number) for operand in i.operands)
