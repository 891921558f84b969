"""The emulator's parts by themselves: parsing, memory's checks, mbarriers, swizzles, what the driver refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.emulator.barriers import Barriers
from tests.emulator.faults import FaultError, UnsupportedError
from tests.emulator.instructions import executable
from tests.emulator.memory import Regions, Tensor, gather
from tests.emulator.number_types import compare, divide, from_bf16, round_bf16, to_integer
from tests.emulator.ptx import Address, Register, Symbol, Vector, parse
from tests.emulator.shared import swizzled

PTX = """.version 8.7
.target sm_90a
.visible .entry kernel(
	.param .u64 .ptr .global .align 1 kernel_param_0,
	.param .align 64 .b8 kernel_param_1[128]
)
.reqntid 128
{
	.reg .pred 	%p<2>;
	.reg .b32 	%r<9>;
	.reg .b64 	%rd<3>;
$L__BB0_1:                              // a loop
	@!%p1 ld.shared.v2.b32 	{%r1, %r2}, [%r3+16];
	{ .reg .pred done; again: mov.pred done, %p1; @!done bra.uni again; }
	{ .reg .pred done; again: mov.pred done, %p1; @!done bra.uni again; }
	@%p1 bra 	$L__BB0_1;
	ret;
}
"""


def test_a_program() -> None:
    program = parse(PTX)
    assert (program.entry, program.target, program.threads) == ("kernel", "sm_90a", 128)
    assert [(param.size, param.alignment) for param in program.params] == [(8, 8), (128, 64)]
    load, first, _, second, *_ = program.code
    assert load.guard and load.guard.negated and load.modifiers == ("shared", "v2", "b32")
    assert load.operands == (Vector((Register("%r1"), Register("%r2"))), Address(Register("%r3"), 16))
    assert first.operands[0] != second.operands[0]  # each in braces of its own
    assert program.code[2].operands == (Symbol("again@1"),) and program.labels["again@1"] == 1
    assert [program.size(name) for name in ("%p1", "%r7", "%rd2")] == [0, 4, 8]
    assert program.labels["$L__BB0_1"] == 0


def test_what_is_unknown_is_named() -> None:
    with pytest.raises(UnsupportedError, match=r"unknown instruction: nanosleep"):
        executable(PTX.replace("	ret;", "	nanosleep.u32 40;\n	ret;"))


def test_the_gap_between_rows_is_outside() -> None:
    whole = torch.arange(64, dtype=torch.float32).reshape(4, 16)
    part = whole[:, 4:8]
    regions = Regions([Tensor(part.data_ptr(), (4, 4), (64, 4), 4, writable=False)])
    at = np.array([part[2].data_ptr()], np.uint64)
    assert gather(at, 4, regions).view(np.float32)[0] == whole[2, 4]
    regions.check(at, 16, write=False)
    with pytest.raises(FaultError, match="write of 4 bytes"):
        regions.check(at, 4, write=True)
    for address, size in ((at - 4, 4), (at + 16, 4), (at - 16, 16)):
        with pytest.raises(FaultError, match="read of"):
            regions.check(address.astype(np.uint64), size, write=False)
    with pytest.raises(FaultError, match="misaligned"):
        regions.check(at + np.uint64(4), 16, write=False)


def test_an_mbarrier() -> None:
    barriers, key, made = Barriers(), (0, 1024), []
    with pytest.raises(FaultError, match="there is no mbarrier"):
        barriers.is_over(key, 0)
    barriers.init(key, 1)
    assert barriers.is_over(key, 1) and not barriers.is_over(key, 0)  # the phase before the first is over
    barriers.arrive(key, 64)
    for part in range(2):
        barriers.copy(key, lambda part=part: made.append(part) or 32, late=True)  # type: ignore[func-returns-value, misc]
    assert barriers.is_over(key, 1) and made == []  # a wait with the wrong parity waits for nothing
    with pytest.raises(FaultError, match="under way"):
        barriers.invalidate(key)
    assert barriers.is_over(key, 0) and made == [0, 1]
    barriers.arrive(key, 0)
    assert barriers.is_over(key, 1)
    barriers.arrive(key, 16)
    with pytest.raises(FaultError, match="more arrivals"):
        barriers.arrive(key, 16)


def test_a_swizzle_is_a_permutation_of_the_columns_of_eight_rows() -> None:
    address = np.arange(0, 2048, 16)
    for bits in (1, 2, 3):
        found = swizzled(address, bits)
        assert sorted(found) == sorted(address) and (found // (16 << bits) == address // (16 << bits)).all()
    assert swizzled(np.array([128 * 5 + 16 * 3]), 3) == 128 * 5 + 16 * (3 ^ 5)


def test_numbers() -> None:
    assert divide(np.array([-7, 7, 3], np.int32), np.array([2, -2, 0], np.int32)).tolist() == [-3, -3, -1]
    x = torch.randn(1000)
    assert np.array_equal(from_bf16(round_bf16(x.numpy())), x.bfloat16().float().numpy())
    nan = np.array([np.nan, 1.0], np.float32)
    assert compare("ltu", nan, nan).tolist() == [True, False] and compare("ne", nan, nan).tolist() == [False, False]
    assert to_integer(np.array([np.nan, 3e10, -1.5], np.float32), "rzi", np.int32).tolist() == [0, 2**31 - 1, -1]
