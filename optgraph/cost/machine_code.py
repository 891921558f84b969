"""The machine code of a compiled kernel: its instructions, and the loops that they make.

Reading it takes NVIDIA's cuobjdump, which comes with Triton; where there is none, `disassembled` gives None.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import subprocess
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from optgraph.base import config
from optgraph.base.errors import InputError
from optgraph.base.files import replacing

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


@dataclass(frozen=True)
class Instruction:
    """One of machine code.

    target:  of a branch.  left: how many groups of copies or products may still be under way when a wait is over.
    writes, reads:  registers.  commits: it is the last of a group of products.
    """

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
    def wgmma(self) -> int:
        """Columns of a product 64 rows high, by a group of four warps; 0 if it is none."""
        found = re.match(r"[HIQ]GMMA\.(?:SP\.)?64x(\d+)x", self.name)
        return int(found[1]) if found else 0

    @cached_property
    def product(self) -> int:
        """FLOPs on the tensor cores: of a warp, or of a group of four for wgmma."""
        if found := re.match(r"[HIQ]GMMA\.(?:SP\.)?64x\d+x(\d+)", self.name):
            return 2 * 64 * self.wgmma * int(found[1])
        found = re.match(r"[HIQ]MMA\.168(\d+)", self.name)
        return 2 * 16 * 8 * int(found[1]) if found else 0

    @cached_property
    def lane_bytes(self) -> int:
        """That each lane loads or stores."""
        if self.name.startswith(("LDSM", "STSM")):
            return 4 * int(self.name[-1]) if self.name[-1] in "124" else 4
        found = re.search(r"\.(128|64|U16|S16|U8|S8|16)\b", self.name)
        return {"128": 16, "64": 8, "U8": 1, "S8": 1}.get(found[1], 2) if found else 4


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


def disassembled(code: bytes) -> Loop | None:
    """The machine code in a cubin as a loop that goes round once; None where nothing can read it, or where some warps
    go another way than others, so that no walk in step tells how long they take."""
    found = listed(_printed(code))
    return None if not found or any(one.name.startswith("BRX") for one in found) else nested(found)


def _printed(code: bytes) -> str:
    """What cuobjdump prints of a cubin, but for encodings. It takes a third of a second for it: the text is kept with
    the compiled kernels. '' where nothing can read it."""
    path = config.cubin_cache() / "printed" / f"{hashlib.sha256(code).hexdigest()}.gz"
    with suppress(OSError, EOFError, zlib.error, UnicodeDecodeError):
        return gzip.decompress(path.read_bytes()).decode()
    text = "\n".join(line[0] for line in _LINE.finditer(_by_cuobjdump(code)))
    if text:
        with suppress(OSError, InputError):  # it is not kept then
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                file.write(gzip.compress(text.encode()))
    return text


def _by_cuobjdump(code: bytes) -> str:
    triton = find_spec("triton")
    if triton is None or not triton.submodule_search_locations:
        return ""
    tool = Path(triton.submodule_search_locations[0], "backends", "nvidia", "bin", "cuobjdump")
    try:
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(code)
            file.flush()
            return subprocess.run([tool, "-sass", file.name], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


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
    """The registers written, by a load several, and read: the first operand is written, and a predicate behind it; of
    an atomic or a shuffle a predicate, and what is behind it."""
    operands = rest.split(",")
    named = [_REGISTER.findall(operand) for operand in operands]
    if name.startswith(("ST", "RED", "BRA", "BAR", "EXIT")) or operands[0].strip().startswith("["):
        return (), tuple(r for registers in named for r in registers)
    behind = name.startswith(("ATOM", "SHFL")) or (len(operands) > 1 and re.fullmatch(r"\s*!?U?P\w+\s*", operands[1]))
    count = 2 if behind else 1
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
    found = list(loops(code)) or [code]
    multiplying = [loop for loop in found if loop.own_product]
    return max(multiplying or found, key=lambda loop: len(loop.own) if multiplying else len(list(loop.flat)))


def loops(around: Loop) -> Iterator[Loop]:
    """The loops inside, at any depth."""
    for item in around.body:
        if isinstance(item, Loop):
            yield item
            yield from loops(item)
