"""Warps with work of their own, as warp specialisation has them: indexed branches, barriers of some warps, registers
that warps give back and take, and the fence that lets the async proxy see what was stored."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.emulator.blocks import Parameters
from tests.emulator.faults import FaultError
from tests.emulator.instructions import executable
from tests.emulator.memory import Regions, Tensor
from tests.emulator.pool import Pool
from tests.emulator.schedule import SCHEDULES, Schedule, run
from tests.emulator.shared import BASE, Shared

# Two warpgroups. The first gets registers that the second gives back, stores a number for it, and meets it once more.
PTX = """.version 8.7
.target sm_90a
.extern .shared .align 16 .b8 global_smem[];
.visible .entry kernel(
	.param .u64 .ptr .global .align 1 kernel_param_0
)
.reqntid 256
.maxnreg 64
{
	.reg .pred 	%p<9>;
	.reg .b32 	%r<9>;
	.reg .b64 	%rd<9>;
	mov.u32 	%r1, %tid.x;
	shr.u32 	%r2, %r1, 7;
	ld.param.b64 	%rd1, [kernel_param_0];
	mul.wide.u32 	%rd2, %r1, 4;
	add.s64 	%rd3, %rd1, %rd2;
	mov.b32 	%r3, global_smem;
	shl.b32 	%r4, %r1, 2;
	add.s32 	%r5, %r3, %r4;
	$L_brx_0: .branchtargets
		$L_first,
		$L_second;
	brx.idx 	%r2, $L_brx_0;
$L_first:
	setmaxnreg.inc.sync.aligned.u32 	96;
	st.shared.b32 	[%r5], %r1;
	bar.sync 	1, 128;
	xor.b32 	%r4, %r4, 508;
	add.s32 	%r5, %r3, %r4;
	ld.shared.b32 	%r6, [%r5];
	st.global.b32 	[%rd3], %r6;
	barrier.sync 	2;
	ret;
$L_second:
	setmaxnreg.dec.sync.aligned.u32 	32;
	barrier.sync 	2;
	ld.shared.b32 	%r6, [%r5+-512];
	st.global.b32 	[%rd3], %r6;
	ret;
}
"""


def outcome(ptx: str, schedule: Schedule) -> list[int]:
    """What the 256 threads leave in the output."""
    out = torch.full((256,), -1, dtype=torch.int32)
    regions = Regions([Tensor(out.data_ptr(), (256,), (4,), 4, writable=True)])
    parameters = Parameters([out.data_ptr().to_bytes(8, "little")], {})
    run(executable(ptx), (1, 1, 1), 512, parameters, regions, schedule)
    return out.tolist()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_partitions_meet_at_barriers(schedule: Schedule) -> None:
    assert outcome(PTX, schedule) == [*range(127, -1, -1), *range(128)]


def test_a_missing_barrier_shows() -> None:
    own = PTX.replace("bar.sync 	1, 128;", "")
    every = PTX.replace("barrier.sync 	2;", "")
    for ptx in (own, every):
        assert any(outcome(ptx, schedule) != outcome(PTX, schedule) for schedule in SCHEDULES)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("bar.sync 	1, 128;", "bar.sync 	1, 256;", "a barrier is waited for in vain"),
        ("bar.sync 	1, 128;", "bar.sync 	1, 64;", "128 threads at a barrier of 64"),
        ("dec.sync.aligned.u32 	32", "dec.sync.aligned.u32 	40", "waited for in vain: setmaxnreg.inc"),
        ("dec.sync.aligned.u32 	32", "dec.sync.aligned.u32 	72", "has fewer than 72"),
        ("inc.sync.aligned.u32 	96", "inc.sync.aligned.u32 	56", "has more than 56"),
        ("inc.sync.aligned.u32 	96", "inc.sync.aligned.u32 	90", "setmaxnreg of 90"),
        (".maxnreg 64\n", "", "without .maxnreg"),
        ("shr.u32 	%r2, %r1, 7;", "shr.u32 	%r2, %r1, 6;", r"an indexed branch to \[0, 1, 2, 3\] of 2 places"),
    ],
)
def test_faults(old: str, new: str, message: str) -> None:
    assert old in PTX
    with pytest.raises(FaultError, match=message):
        outcome(PTX.replace(old, new), SCHEDULES[0])


def test_a_warpgroup_changes_its_registers_together() -> None:
    pool, every = Pool(1, 256, 64), np.ones((1, 256), bool)
    upper = every & (np.arange(256) >= 128)
    pool.give(upper, 32)
    assert pool.take(every & ~upper, 96).sum() == 128
    pool.finish()
    pool.give(upper & (np.arange(256) < 160), 24)
    with pytest.raises(FaultError, match="part of a warpgroup"):
        pool.finish()


def test_the_async_proxy_sees_what_is_fenced_by_its_author_or_by_one_who_met_it() -> None:
    shared, lanes = Shared(1, 256), np.array([[True, False, True]])
    index = shared.index(np.uint32(BASE) + np.array([[0, 32, 64]], np.uint32), 16, lanes)
    shared.store(index, 16, np.ones((1, 3), np.complex128), lanes)
    with pytest.raises(FaultError, match="without a fence"):
        shared.require_fenced(index, 16)
    shared.require_fenced(index[:, 1:2], 16)  # nobody has stored there
    shared.fence(lanes & (np.arange(3) == 0))
    shared.require_fenced(index[:, :1], 16)
    with pytest.raises(FaultError, match="without a fence"):
        shared.require_fenced(index[:, 2:], 16)  # another thread's
    shared.meet(lanes)
    with pytest.raises(FaultError, match="without a fence"):
        shared.require_fenced(index[:, 2:], 16)
    shared.fence(lanes & (np.arange(3) == 0))
    shared.require_fenced(index, 16)
