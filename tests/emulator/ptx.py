"""PTX as text into a Program: its parameters, and a list of instructions with their operands.

Of the language it knows what Triton writes: one entry, no functions, registers declared in braces that scope them.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.emulator.faults import UnsupportedError

# ---- operands


@dataclass(frozen=True)
class Register:
    name: str


@dataclass(frozen=True)
class Number:
    """An integer as it is written."""

    value: int


@dataclass(frozen=True)
class Real:
    """The bits of a floating-point number of `size` bytes."""

    bits: int
    size: int

    @property
    def value(self) -> float:
        return float(struct.unpack(">f" if self.size == 4 else ">d", self.bits.to_bytes(self.size, "big"))[0])


@dataclass(frozen=True)
class Symbol:
    """A special register, a parameter, a label, a variable, or `_`."""

    name: str


@dataclass(frozen=True)
class Vector:
    """{a, b}"""

    items: tuple[Operand, ...]


@dataclass(frozen=True)
class Address:
    """[base + offset], and for a tensor map [base, {coordinates}]."""

    base: Operand
    offset: int = 0
    coordinates: tuple[Operand, ...] = ()


@dataclass(frozen=True)
class Pair:
    """first | second"""

    first: Operand
    second: Operand


Operand = Register | Number | Real | Symbol | Vector | Address | Pair
SINK = Symbol("_")

# ---- programs


@dataclass(frozen=True)
class Guard:
    """@p or @!p before an instruction."""

    register: str
    negated: bool


@dataclass(frozen=True)
class Instruction:
    """`name.modifier.modifier operands;`"""

    text: str
    name: str
    modifiers: tuple[str, ...]
    guard: Guard | None
    operands: tuple[Operand, ...]

    @property
    def type(self) -> str:
        """The last modifier, which for most is what they work on."""
        return self.modifiers[-1]


@dataclass(frozen=True)
class Param:
    """A parameter of the entry, in bytes."""

    name: str
    size: int
    alignment: int


@dataclass
class Program:
    """One entry. registers: of a thread at most, 0 if it does not say. labels: the number of the instruction after
    each. tables: the labels that an indexed branch chooses from. sizes: bytes of registers, by name or by what comes
    before their number."""

    entry: str
    target: str
    params: list[Param]
    threads: int
    registers: int
    code: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    tables: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    def size(self, register: str) -> int:
        """Bytes of a register, 0 of a predicate."""
        found = self.sizes.get(register)
        return self.sizes[register.rstrip("0123456789")] if found is None else found


def parse(text: str) -> Program:
    """Raises UnsupportedError for what is not written as Triton writes it."""
    start = text.index(".entry")
    brace = text.index("{", start)
    header = text[start:brace]
    name = re.match(r"\.entry\s+([\w$]+)\(", header)
    threads = re.search(r"\.reqntid (\d+)", header)
    registers = re.search(r"\.maxnreg (\d+)", header)
    target = re.search(r"\.target (\w+)", text)
    if not (name and threads and target):
        raise UnsupportedError(f"an entry of another form: {header[:80]}")
    params = header[header.index("(") + 1 : header.index(")")]
    program = Program(
        name[1],
        target[1],
        [_param(p.strip()) for p in params.split(",") if p.strip()],
        int(threads[1]),
        int(registers[1]) if registers else 0,
    )
    body = re.sub(r"//[^\n]*", "", text[brace + 1 :])
    _Body(program).read(re.sub(r"^\s*\.loc\b[^\n]*", "", body, flags=re.M))
    return program


def _param(text: str) -> Param:
    found = re.match(r"\.param \.align (\d+) \.b8 (\w+)\[(\d+)\]$", text)
    if found:
        return Param(found[2], int(found[3]), int(found[1]))
    found = re.match(r"\.param \.[a-z](\d+)(?: \.ptr \.global \.align \d+)? (\w+)$", text)
    if not found:
        raise UnsupportedError(f"parameter {text}")
    return Param(found[2], int(found[1]) // 8, int(found[1]) // 8)


class _Body:
    """Reads statements into a program. A name declared in inner braces gets the number of its scope: `complete@3`."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._scopes: list[tuple[str, set[str]]] = []  # suffix, and what is declared there
        self._opened = 0
        self._last = ""  # label

    def read(self, text: str) -> None:
        token = re.compile(r"\s*(?:(?P<label>[$\w]+):(?!:)|(?P<brace>[{}])|(?P<statement>[^;]*);)")
        at = 0
        while True:
            found = token.match(text, at)
            if not found:
                raise UnsupportedError(f"statement {text[at : at + 80]}")
            at = found.end()
            if found["label"]:
                self._last = self._label(found["label"])
                self._program.labels[self._last] = len(self._program.code)
            elif found["statement"] is not None:
                self._statement(" ".join(found["statement"].split()))
            elif found["brace"] == "{":
                self._opened += 1
                self._scopes.append((f"@{self._opened}", set()))
            elif not self._scopes:
                return
            else:
                self._scopes.pop()

    def _label(self, name: str) -> str:
        return name if name.startswith("$") or not self._scopes else name + self._scopes[-1][0]

    def _statement(self, text: str) -> None:
        if text.startswith(".reg"):
            self._declare(text)
        elif text.startswith(".branchtargets"):
            self._program.tables[self._last] = tuple(map(self._label, _split(text.removeprefix(".branchtargets"))))
        elif text and not text.startswith(".pragma"):
            self._program.code.append(self._instruction(text))

    def _declare(self, text: str) -> None:
        _, kind, names = text.split(None, 2)
        size = 0 if kind == ".pred" else int(kind[2:]) // 8
        for name in map(str.strip, names.split(",")):
            if "<" in name:
                self._program.sizes[name[: name.index("<")]] = size
            elif self._scopes:
                self._scopes[-1][1].add(name)
                self._program.sizes[name + self._scopes[-1][0]] = size
            else:
                self._program.sizes[name] = size

    def _instruction(self, text: str) -> Instruction:
        if text.startswith("."):
            raise UnsupportedError(text)
        for suffix, names in self._scopes:
            for name in names:
                text = re.sub(rf"(?<![\w%$]){re.escape(name)}(?!\w)", name + suffix, text)
        guard, rest = None, text
        found = re.match(r"@(!?)([%\w@]+)\s+(.*)", text)
        if found:
            guard, rest = Guard(found[2], found[1] == "!"), found[3]
        opcode, _, tail = rest.partition(" ")
        name, *modifiers = opcode.split(".")
        operands = tuple(self._operand(part) for part in _split(tail))
        if name == "bra":
            assert isinstance(operands[-1], Symbol)
            operands = (Symbol(self._label(operands[-1].name)),)
        return Instruction(text, name, tuple(modifiers), guard, operands)

    def _operand(self, text: str) -> Operand:
        if text.startswith("{"):
            return Vector(tuple(self._operand(part) for part in _split(text[1:-1])))
        if text.startswith("["):
            return self._address(text)
        if "|" in text:
            first, second = text.split("|")
            return Pair(self._operand(first.strip()), self._operand(second.strip()))
        if re.match(r"0[fF][0-9a-fA-F]{8}$|0[dD][0-9a-fA-F]{16}$", text):
            return Real(int(text[2:], 16), 4 if text[1] in "fF" else 8)
        if re.match(r"-?(0x[0-9a-fA-F]+|\d+)U?$", text):
            return Number(int(text.rstrip("U"), 0))
        known = text in self._program.sizes or text.rstrip("0123456789") in self._program.sizes
        return Register(text) if known else Symbol(text)

    def _address(self, text: str) -> Address:
        base, *more = _split(text[1:-1])
        found = re.match(r"([%\w$@.]+)\s*(?:\+\s*(-?\w+))?$", base)
        if not found:
            raise UnsupportedError(f"address {text}")
        coordinates = self._operand(more[0]) if more else Vector(())
        if not isinstance(coordinates, Vector):
            raise UnsupportedError(f"address {text}")
        return Address(self._operand(found[1]), int(found[2], 0) if found[2] else 0, coordinates.items)


def _split(text: str) -> Iterator[str]:
    """At the commas that are in no brackets."""
    depth, start = 0, 0
    for i, c in enumerate(text):
        depth += (c in "{[") - (c in "}]")
        if c == "," and depth == 0:
            yield text[start:i].strip()
            start = i + 1
    if text[start:].strip():
        yield text[start:].strip()
