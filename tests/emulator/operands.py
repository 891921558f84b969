"""What an instruction reads and writes: operands as functions of the blocks that execute it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.emulator.blocks import PARAM_BASE, PARAM_PITCH, Blocks, Mask
from tests.emulator.faults import UnsupportedError
from tests.emulator.number_types import WORD, Array
from tests.emulator.ptx import SINK, Address, Instruction, Number, Operand, Program, Real, Register, Symbol, Vector

Step = Callable[[Blocks, Mask], None]  # an instruction, executed where the mask is on
Read = Callable[[Blocks], Array]
Function = Callable[..., Array]


class Reader:
    """Gives the registers of a program their numbers, and makes of operands what reads them."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.registers: dict[str, int] = {}
        self._params = {param.name: i for i, param in enumerate(program.params)}

    def number(self, name: str) -> int:
        return self.registers.setdefault(name, len(self.registers))

    def target(self, operand: Operand) -> int:
        """The number of a register to write, -1 for `_`."""
        if operand == SINK:
            return -1
        if not isinstance(operand, Register):
            raise UnsupportedError(f"destination {operand}")
        return self.number(operand.name)

    def targets(self, operand: Operand) -> list[int]:
        """Of a vector, or of one register."""
        return [self.target(item) for item in items(operand)]

    def value(self, operand: Operand, kind: Any) -> Read:
        """The operand as numpy type `kind`."""
        match operand:
            case Register(name):
                return self._register(name, np.dtype(kind))
            case Number(value):
                return _constant(_number(value, kind))
            case Real(bits, size):
                return _constant(np.array([[bits]], WORD[size]).view(kind))
            case Symbol(name) if name in self._params:
                place = PARAM_BASE + (self._params[name] << PARAM_PITCH)
                return _constant(np.array([[place]], np.uint64).view(kind))
            case Symbol(name):
                return lambda blocks: blocks.special[name].view(kind)
        raise UnsupportedError(f"operand {operand}")

    def _register(self, name: str, kind: np.dtype[Any]) -> Read:
        number = self.number(name)

        def read(blocks: Blocks) -> Array:
            x = blocks.registers[number]
            if x is None:  # never written: any value will do
                return np.zeros((1, 1), kind)
            if x.dtype == kind:
                return x
            if x.dtype.itemsize != kind.itemsize:
                raise UnsupportedError(f"{name} holds {x.dtype} and is read as {kind}")
            return x.view(kind)

        return read

    def address(self, operand: Operand, kind: Any = np.uint32) -> Read:
        """[base + offset]: uint32 in shared memory, uint64 elsewhere."""
        assert isinstance(operand, Address)
        read, offset = self.value(operand.base, kind), operand.offset
        add = kind(offset & (2 ** (8 * np.dtype(kind).itemsize) - 1))
        return (lambda blocks: read(blocks) + add) if offset else read

    def fitted(self, x: Array, operand: Operand) -> Array:
        """`x` in the width of the register it goes to, extended by its sign if it has one."""
        size = self.program.size(operand.name) if isinstance(operand, Register) else 0
        if x.dtype.itemsize >= size:
            return x
        signed = {2: np.int16, 4: np.int32, 8: np.int64}[size]
        return x.astype(signed if x.dtype.kind == "i" else WORD[size])

    def elementwise(self, instruction: Instruction, kinds: list[Any], function: Function) -> Step:
        """The first operand becomes `function` of the others, read as `kinds`."""
        target, *sources = instruction.operands
        number = self.target(target)
        reads = [self.value(source, kind) for source, kind in zip(sources, kinds, strict=True)]
        return lambda blocks, mask: blocks.set(number, function(*[read(blocks) for read in reads]), mask)


def items(operand: Operand) -> tuple[Operand, ...]:
    """Those of a vector; another operand is the only one."""
    return operand.items if isinstance(operand, Vector) else (operand,)


def _constant(value: Array) -> Read:
    return lambda blocks: value


def _number(value: int, kind: Any) -> Array:
    if kind is np.bool_:
        return np.array([[value != 0]])
    size = np.dtype(kind).itemsize
    return np.array([[value & (2 ** (8 * size) - 1)]], WORD[size]).view(kind)


def number_of(operand: Operand) -> int:
    """An operand that must be written as a number."""
    if not isinstance(operand, Number):
        raise UnsupportedError(f"{operand} in place of a number")
    return operand.value
