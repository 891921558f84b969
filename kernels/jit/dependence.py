# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""What a kernel does to be launched while the one before it on its stream still runs (programmatic dependent launch).

From sm_90 on, a launch may begin before the one it follows ends: its programs come up on what the other leaves free
and wait there. What makes that as safe as one after the other:

- every program waits before it reads what a launch may have written, and before it writes, for the memory of an
  activation is another's later. Weights it may read before: `fetch` has them in L2 by the time they are needed;
- it waits whatever it goes on to do, so that a launch that has ended stands for all those before it.

Whether a launch begins early is said when it is enqueued (`run/driver.py`); where it does not, the wait takes no time.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language import core
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

_SHARE = tl.constexpr(32 << 10)  # bytes that a program fetches
# By one thread: $2 bytes from address $1 on, both multiples of 16; nothing if $2 is not positive.
_FETCH = tl.constexpr(
    "{ .reg .pred here; .reg .b32 thread; mov.u32 thread, %tid.x; setp.eq.u32 here, thread, 0; "
    "setp.gt.and.s32 here, $2, 0, here; @here cp.async.bulk.prefetch.L2.global [$1], $2; mov.b32 $0, 0; }"
)


def _may_begin_early(_semantic=None):
    """Whether what is compiled is for sm_90 or newer; the interpreter has no `_semantic`."""
    arch = _semantic and _semantic.builder.options.arch  # 'sm90'
    return core.constexpr(bool(arch) and int(arch.removeprefix("sm")) >= 90)


_may_begin_early.__triton_builtin__ = True  # type: ignore[attr-defined]  # the compiler calls it


@triton.jit
def await_launches():
    """Waits until all earlier launches have ended and what they wrote is there; the next one may begin from here on.

    Not before, so that no more than two are under way. And no later: the next one's programs come up only when all of
    this launch's have come this far, so that they take no place from one of these.
    """
    if _may_begin_early():
        gdc_wait()
        gdc_launch_dependents()


@triton.jit
def fetch(weight, count):
    """Has `weight`, `count` elements side by side that no launch writes, or None, brought into L2, a share by each
    program until nothing is left. At a batch of 1 a network's weights come out of HBM, which has little to do while the
    launch before runs."""
    if _may_begin_early() and weight is not None:
        program = tl.program_id(0) + tl.num_programs(0) * (tl.program_id(1) + tl.num_programs(1) * tl.program_id(2))
        address = weight.to(tl.int64)
        end = address + count.to(tl.int64) * (weight.dtype.element_ty.primitive_bitwidth // 8)
        start = ((address + 15) & -16) + program.to(tl.int64) * _SHARE
        size = tl.maximum(tl.minimum(end - start, _SHARE), 0).to(tl.int32) & -16  # of late programs far below zero
        tl.inline_asm_elementwise(_FETCH, "=r,l,r", [start, size], dtype=tl.int32, is_pure=False, pack=1)
