# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Split-K: several programs share one output tile, each summing a part of the depth.

A small map at batch 1 has fewer tiles than the GPU has SMs, and each of them a long loop. Every program leaves its
partial sum in the workspace; the one that comes last adds them up, always in the same order, so that the result does
not depend on which one that was, and goes on to the epilogue alone.

The workspace begins with one counter a tile, zero before and after every launch, then has the partial sums,
float32 or int32 [tiles, splits, BLOCK_M, BLOCK_N].
"""

from __future__ import annotations

import triton
import triton.language as tl

from optgraph.kernels.frame.split import MAX_TILES

COUNTERS = tl.constexpr(MAX_TILES)  # int32 each, as wide as a float32


@triton.jit
def span(steps, split, splits):
    """The steps [first, last) of the depth that program `split` of `splits` takes; some may get none."""
    share = tl.cdiv(steps, splits)
    first = split * share
    return first, tl.minimum(first + share, steps)


@triton.jit
def joined(acc, workspace, tile, split, splits, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """(The sum of all programs' `acc` [BLOCK_M, BLOCK_N], whether this program is the last and so has it)."""
    counter = workspace.to(tl.pointer_type(tl.int32), bitcast=True) + tile
    element = tl.arange(0, BLOCK_M)[:, None] * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    parts = (
        workspace.to(tl.pointer_type(acc.dtype), bitcast=True)
        + COUNTERS
        + tile.to(tl.int64) * splits * (BLOCK_M * BLOCK_N)
        + element
    )
    tl.store(parts + split * (BLOCK_M * BLOCK_N), acc)
    # All threads' stores come before the count, which releases them to whoever counts next.
    tl.debug_barrier()
    last = tl.atomic_add(counter, 1, sem="acq_rel") == splits - 1
    if last:
        acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=acc.dtype)
        for other in range(0, splits, 2):
            # Two are under way at a time: the program has nothing else to do while it waits for one.
            one = tl.load(parts + other * (BLOCK_M * BLOCK_N))
            two = tl.load(parts + (other + 1) * (BLOCK_M * BLOCK_N), other + 1 < splits, other=0)
            acc = acc + one + two
        tl.store(counter, 0)
    return acc, last
