"""What is read from machine code: its loops, its counts, and how long a program is on its way through made-up code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from optgraph.base.devices import BEST, H100, SM_80, WORST
from optgraph.cost import machine_code
from optgraph.cost.machine_code import Instruction, Loop, disassembled, listed, main_loop, nested
from optgraph.cost.walk import Machine, demand
from optgraph.kernels.frame.work import Program

LOAD = BEST.load


def code(*lines: str) -> Loop:
    """Instructions as cuobjdump prints them, a line each; `BRA @3` goes back to the one of that number."""
    return nested(
        listed("".join(f"        /*{16 * i:04x}*/                   {_to(line)} ;\n" for i, line in enumerate(lines)))
    )


def _to(line: str) -> str:
    name, _, number = line.partition("@")
    return f"{name}0x{16 * int(number):x}" if number.isdecimal() else line


def flat(loop: Loop) -> Sequence[str]:
    return [one.name for one in loop.flat]


def test_instructions_are_read_with_what_they_write_and_read() -> None:
    load, guarded, store, atomic, wait, back = listed(
        """
        /*0010*/                   LDG.E.128 R16, desc[UR14][R60.64] ;
        /*0020*/               @P0 IADD3 R12, P3, R6, 0x30, RZ ;
        /*0030*/                   STS.64 [R4+0x10], R20 ;
        /*0038*/                   ATOMG.E.ADD.STRONG.GPU PT, R5, desc[UR8][R40.64], R6 ;
        /*0040*/                   WARPGROUP.DEPBAR.LE gsb0, 0x1 ;
        /*0050*/              @!P1 BRA 0x10 ;
        """
    )
    assert (load.writes, load.reads) == (("R16", "R17", "R18", "R19"), ("UR14", "R60"))
    assert (guarded.writes, guarded.reads) == (("R12", "P3"), ("R6", "P0"))
    assert (store.writes, store.reads, store.lane_bytes) == ((), ("R4", "R20"), 8)
    assert (atomic.writes, atomic.reads) == (("R5",), ("UR8", "R40", "R6"))
    assert (wait.left, wait.target) == (1, None)
    assert (back.target, back.reads) == (0x10, ("P1",))


def test_loops_lie_in_each_other_and_waits_after_the_end_are_left_out() -> None:
    found = code("MOV R1, R2", "LDG.E R3, [R1]", "FFMA R4, R3, R3", "BRA @2", "BRA @1", "EXIT", "NANOSLEEP", "BRA @6")
    assert flat(found) == ["MOV", "LDG.E", "FFMA", "BRA", "BRA", "EXIT"]
    (outer,) = (item for item in found.body if isinstance(item, Loop))
    (inner,) = (item for item in outer.body if isinstance(item, Loop))
    assert (flat(outer), flat(inner)) == (["LDG.E", "FFMA", "BRA", "BRA"], ["FFMA", "BRA"])


def test_the_main_loop() -> None:
    assert flat(main_loop(code("MOV", "EXIT"))) == ["MOV", "EXIT"]
    multiplying = code("MOV", "FADD", "FADD", "FADD", "BRA @1", "FADD", "HGMMA.64x8x16.F32", "BRA @5", "BRA @0", "EXIT")
    assert flat(main_loop(multiplying)) == ["FADD", "HGMMA.64x8x16.F32", "BRA"]
    assert flat(main_loop(code("MOV", "BRA @0", "FADD", "FADD", "BRA @2", "EXIT"))) == ["FADD", "FADD", "BRA"]


NOTHING = Program(0)


def clocks(*lines: str, program: Program = NOTHING, warps: int = 4) -> float:
    """How long a program takes by itself."""
    return demand(Machine(code(*lines, "EXIT"), warps, 1), program, "fp16", H100, BEST).chain


def test_loads_together_are_waited_for_once_and_one_after_another_each() -> None:
    together = clocks("LDG.E R1, [R8]", "LDG.E R2, [R9]", "FADD R3, R1, R2")
    apart = clocks("LDG.E R1, [R8]", "LDG.E R2, [R1]", "FADD R3, R2, R2")
    unused = clocks("LDG.E R1, [R8]", "LDG.E R2, [R9]", "FADD R3, R4, R5")
    assert LOAD < together < 1.1 * LOAD and 2 * LOAD < apart < 2.1 * LOAD and unused < 10


def test_a_wait_leaves_the_copies_that_it_says_under_way() -> None:
    copies = "LDGSTS.E [R1], [R2.64]", "LDGDEPBAR", *["FADD R3, R4, R5"] * 100, "LDGSTS.E [R1], [R2.64]", "LDGDEPBAR"
    first, both = (clocks(*copies, f"DEPBAR.LE SB0, {left}", "EXIT") for left in ("0x1", "0x0"))
    assert LOAD < first < LOAD + 20
    assert first + 100 < both < first + 130


def test_boxes_are_waited_for_in_their_order() -> None:
    box, wait, work = "UTMALDG.2D [UR8], [UR6]", "SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR8], R12", "FADD R3, R4, R5"
    one = clocks(box, wait)
    assert LOAD < one < 1.1 * LOAD
    assert clocks(box, *[work] * 200, box, wait) > one + 200, "one wait for both"
    assert clocks(box, *[work] * 200, box, wait, *[work] * 300, wait) < one + 340, "the second is there in time"


def test_boxes_come_one_after_the_other_at_the_rate_of_the_port() -> None:
    box, wait = "UTMALDG.2D [UR8], [UR6]", "SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR8], R12"
    code = *[box] * 4, *[wait] * 4
    small, large = (clocks(*code, program=Program(bytes=4 * size)) for size in (64, 64_000))
    assert LOAD < small < 1.1 * LOAD
    assert large == pytest.approx(small + 3 * 64_000 / BEST.port, abs=30), "three of them behind the first"


def test_products_run_beside_the_code_until_they_are_waited_for() -> None:
    product = "HGMMA.64x256x16.F32 R24, gdesc[UR4], R24, gsb0"
    waiting = clocks(product, "WARPGROUP.DEPBAR.LE gsb0, 0x0")
    beside = clocks(product, *["FADD R3, R4, R5"] * 100, "WARPGROUP.DEPBAR.LE gsb0, 0x0")
    assert 128 < waiting < 180, "64×256×16 take an SM 128 clocks"
    assert beside == pytest.approx(waiting, abs=5)


def test_a_loop_that_multiplies_goes_round_as_often_as_makes_the_product() -> None:
    step = "LDG.E R1, [R8]", "HGMMA.64x64x16.F32 R24, R1, gdesc[UR4], R24", "BRA @0"
    once = 2 * 64 * 64 * 16
    few, many = (clocks(*step, program=Program(0, product=times * once)) for times in (10, 20))
    assert 10 * LOAD < few < 12 * LOAD and many == pytest.approx(2 * few, rel=0.05)
    groups = clocks(*step, program=Program(0, product=20 * once), warps=8)
    assert groups == pytest.approx(few, rel=0.2), "two groups of warps make twice as much a round"


def test_other_loops_go_round_as_the_launch_says_or_as_its_bytes_do() -> None:
    loop = "LDG.E.128 R4, [R8]", "FADD R3, R4, R4", "BRA @0"
    assert clocks(*loop, program=Program(0, steps=9)) == pytest.approx(9 * LOAD, rel=0.1)
    assert clocks(*loop, program=Program(4 * 512 * 5)) == pytest.approx(5 * LOAD, rel=0.1)
    rows = "MOV R1, R2", "LDG.E R4, [R8]", "FADD R3, R4, R4", "BRA @1", "HMMA.16816.F32 R8, R3, R4, R8", "BRA @0"
    program = Program(0, product=4 * 2 * 4096, rows=3)
    assert clocks(*rows, program=program) == pytest.approx(2 * 3 * LOAD, rel=0.3)


def test_counts_are_those_of_the_parts() -> None:
    def parts(*lines: str) -> dict[str, float]:
        return dict(demand(Machine(code(*lines, "EXIT"), 4, 1), NOTHING, "fp16", H100, BEST).parts)

    issued = parts(*["UMOV UR1, UR2"] * 99)["instructions"]
    assert issued == pytest.approx(100 / BEST.issue), "four warps, four schedulers: a clock each"
    assert parts(*["LOP3.LUT R1, R2, R3"] * 99)["instructions"] == pytest.approx(198 / BEST.issue), "64 lanes for these"
    assert parts("LDS.128 R4, [R8]")["L1"] == 4 * 512 / 128
    assert parts("LDG.E.U16 R4, [R8]")["L1"] == 4, "a clock at least"


def test_the_worst_is_not_better_than_the_best() -> None:
    step = "LDG.E R1, [R8]", "HMMA.16816.F32 R8, R1, R4, R8", "BAR.SYNC 0x0", "BRA @0", "EXIT"
    best, worst = (
        demand(Machine(code(*step), 8, 1), Program(4096, product=8 * 4096 * 99), "fp16", SM_80.device, end)
        for end in (BEST, WORST)
    )
    assert best.chain < worst.chain and all(best.parts[part] <= worst.parts[part] for part in best.parts)


def test_what_is_printed_of_a_cubin_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And damaged, or where nothing can be written, it is printed again."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    printed: list[bytes] = []

    def by_cuobjdump(code: bytes) -> str:
        printed.append(code)
        return "        /*0000*/                   EXIT ;    /* 0x000000000000794d */\n"

    def names(code: bytes) -> list[str]:
        found = disassembled(code)
        assert found is not None
        return list(flat(found))

    monkeypatch.setattr(machine_code, "_by_cuobjdump", by_cuobjdump)
    assert names(b"a") == names(b"a") == names(b"b") == ["EXIT"] and printed == [b"a", b"b"]
    for file in tmp_path.rglob("*.gz"):
        file.write_bytes(file.read_bytes()[:-9])
    assert names(b"a") == names(b"a") == ["EXIT"] and printed == [b"a", b"b", b"a"]
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "file"))
    assert names(b"a") == names(b"a") == ["EXIT"] and len(printed) == 5


def test_what_cannot_be_read_gives_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert disassembled(b"\x7fELF and no more") is None
    monkeypatch.setattr(machine_code, "find_spec", lambda _: None)
    assert disassembled(b"") is None


def test_widths() -> None:
    widths = {"LDG.E.128": 16, "LDG.E.64": 8, "LDG.E": 4, "LDG.E.U16": 2, "LDSM.16.M88.4": 16, "LDSM.16.MT88.2": 8}
    assert {name: Instruction(0, name).lane_bytes for name in widths} == widths
    assert Instruction(0, "HMMA.16816.F32").product == 2 * 16 * 8 * 16
    assert Instruction(0, "HMMA.1688.F32.TF32").product == 2 * 16 * 8 * 8
    assert Instruction(0, "HGMMA.64x128x16.F32").product == 2 * 64 * 128 * 16
