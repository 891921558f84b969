# mypy: disable-error-code="no-untyped-def,untyped-decorator,assignment,misc"
"""Depthwise convolution feeding a 1x1 convolution, on Hopper by warps that are specialised; see
`frame/specialised.py`.

Pixels are numbered through all images, row by row: so the taps of a pixel lie at the same distances from it wherever it
is, and what BLOCK_M pixels side by side read is one run of pixels, their halo. A program takes one block of pixels
after another. Its warps run side by side, and meet at mbarriers only:

    load the halo    one warp: the copy engine fetches it, BLOCK_K channels at a time, into a ring of HALOS
    produce          PRODUCERS warps: the depthwise of every chunk of BLOCK_K channels, once for all columns, out of
                     shared memory into shared memory: one of DEPTH operands of the product
    load weights     one warp: [BLOCK_K, BLOCK_N] into a ring of STAGES, for every block of columns, chunk by chunk
    multiply         the others: wgmma of a chunk and a stage, both in shared memory

A thread that produces has a run of RUN pixels side by side, of eight channels: what it loads at one place serves all
the taps that lie there. Where a tap is off the map, what lies there is of another row, or another image: above and
below, it is silenced as it is loaded; left and right, it is left out of the sum, which is why a column of taps is
added first.

What a producer has stored, wgmma may see after a fence by that thread; then one of them arrives for all, behind a
barrier of theirs. A place in shared memory is free when the last that read it are done. Those who touch what launches
write wait for earlier ones, each by itself; weights are fetched before.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from optgraph.kernels.jit.addressing import within
from optgraph.kernels.jit.dependence import await_launches
from optgraph.kernels.jit.epilogue import activated, parameter, store_rows
from optgraph.kernels.jit.rows import replaced

_BOX = gl.constexpr(32)  # pixels that one copy fetches


# fmt: off
@gluon.jit
def _next(stage, parity, COUNT: gl.constexpr):
    """The stage of a ring after this one, and the parity of its phase."""
    stage += 1
    if stage == COUNT:
        stage = 0
        parity ^= 1
    return stage, parity


@gluon.jit
def _load_halo(
    x, size, blocks, halo_smem, full, free, TOP: gl.constexpr, LEFT: gl.constexpr,
    BLOCK_M: gl.constexpr, BLOCK_K: gl.constexpr, CHUNKS: gl.constexpr, HALO: gl.constexpr, HALOS: gl.constexpr,
):
    await_launches()
    stage = 0
    parity = 1  # of a phase that is over before any stage was freed
    for block in range(gl.program_id(0), blocks, gl.num_programs(0)):
        first = block * BLOCK_M - TOP * size.width - LEFT
        for chunk in range(CHUNKS):
            mbarrier.wait(free.index(stage), parity)
            mbarrier.expect(full.index(stage), HALO * BLOCK_K * 2)
            for box in range(HALO // _BOX):
                tma.async_copy_global_to_shared(
                    x, [first + box * _BOX, chunk * BLOCK_K], full.index(stage),
                    halo_smem.index(stage * (HALO // _BOX) + box),
                )
            stage, parity = _next(stage, parity, HALOS)


@gluon.jit
def _silenced(x, here):
    """x where a pixel is `here`, and else zero: of 16 bits two channels an instruction."""
    if x.dtype.primitive_bitwidth == 16:
        mask = gl.where(here, -1, 0)[:, None]
        return gl.inline_asm_elementwise("and.b32 $0, $1, $2;", "=r,r,r,r", [x, mask], x.dtype, is_pure=True, pack=2)
    else:
        return gl.where(here[:, None], x, 0.0)


@gluon.jit
def _reduced(
    pixels, taps, start, row, column, size, pre,
    KH: gl.constexpr, KW: gl.constexpr, TOP: gl.constexpr, LEFT: gl.constexpr,
    BLOCK_K: gl.constexpr, RUNS: gl.constexpr, RUN: gl.constexpr, layout: gl.constexpr,
):
    """The sums of the windows of every run, pixel by pixel. start: where the first run's first window begins. row,
    column: of the first pixel of each run. Whatever a run has, and its windows around it, lies in two rows at most."""
    plain: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [1, 0])
    sums = ()
    for place in gl.static_range(RUN + KW - 1):
        # The pixel that a window here is around may be in the row before or after.
        w = column + (place - LEFT)
        h = row + (w >= size.width).to(gl.int32) - (w < 0).to(gl.int32)
        h = gl.where(h == size.height, 0, h)
        h = gl.where(h < 0, size.height - 1, h)
        values = ()
        for r in gl.static_range(KH):
            at = pixels.index(start + r * size.width + place)
            # Of each run the pixel at this place.
            a = at._reinterpret(pixels.dtype, [RUNS, RUN * BLOCK_K], plain).slice(0, BLOCK_K, dim=1).load(layout)
            a = a.to(taps[0].dtype)
            if pre.act is not None:
                a = pre.act(a, pre.a, pre.b)
            if r != TOP:
                a = _silenced(a, within(h + (r - TOP), size.height))
            values += (a,)
        for j in gl.static_range(RUN):
            if (j <= place) and (place < j + KW):
                part = values[0] * taps[place - j]
                for r in gl.static_range(1, KH):
                    part += values[r] * taps[r * KW + place - j]
                if place - j != LEFT:
                    # Of the pixel itself: beyond its own row nothing is seen.
                    own = column + j
                    own = gl.where(own >= size.width, own - size.width, own)
                    part = _silenced(part, within(own + (place - j - LEFT), size.width))
                if place == j:
                    sums += (part.to(gl.float32),)
                else:
                    sums = replaced(sums, j, sums[j] + part.to(gl.float32))
    return sums


@gluon.jit
def _produce(
    depthwise, depthwise_bias, pre, mid, size, blocks, halo_smem, halo_full, halo_free, kept_smem, full, free,
    HALF: gl.constexpr, CLEAR_K: gl.constexpr,
    KH: gl.constexpr, KW: gl.constexpr, TOP: gl.constexpr, LEFT: gl.constexpr,
    BLOCK_M: gl.constexpr, BLOCK_K: gl.constexpr, CHUNKS: gl.constexpr, DEPTH: gl.constexpr,
    HALO: gl.constexpr, HALOS: gl.constexpr, RUN: gl.constexpr, PRODUCERS: gl.constexpr,
):
    # Eight channels a thread, 16 bytes; the 128 bytes of a pixel are all banks.
    threads: gl.constexpr = BLOCK_K // 8
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [32 // threads, threads], [PRODUCERS, 1], [1, 0])
    type: gl.constexpr = kept_smem.dtype
    summed: gl.constexpr = gl.float16 if HALF else gl.float32
    runs: gl.constexpr = BLOCK_M // RUN
    pixels = halo_smem._reinterpret(type, [HALOS * HALO, 1, BLOCK_K], gl.SwizzledSharedLayout(1, 1, 1, [1, 0]))
    channels = size.channels // 8 * 8
    k = gl.arange(0, BLOCK_K, gl.SliceLayout(0, layout))
    run = gl.arange(0, runs, gl.SliceLayout(1, layout)) * RUN
    stage, halo_parity = 0, 0
    buffer, parity = 0, 1
    for block in range(gl.program_id(0), blocks, gl.num_programs(0)):
        position = block * BLOCK_M + run
        row, column = position // size.width % size.height, position % size.width
        for chunk in range(CHUNKS):
            c = chunk * BLOCK_K + k
            k_mask = c < channels
            taps = ()
            for tap in gl.static_range(KH * KW):
                taps += (gl.load(depthwise + tap * channels + c, k_mask, other=0.0).to(summed)[None, :],)
            mbarrier.wait(halo_full.index(stage), halo_parity)
            sums = _reduced(
                pixels, taps, stage * HALO, row, column, size, pre,
                KH, KW, TOP, LEFT, BLOCK_K, runs, RUN, layout,
            )
            mbarrier.arrive(halo_free.index(stage), count=1)
            stage, halo_parity = _next(stage, halo_parity, HALOS)

            slot = buffer * CHUNKS + chunk
            mbarrier.wait(free.index(slot), parity)
            rows = kept_smem.index(slot)
            for j in gl.static_range(RUN):
                d = sums[j]
                if depthwise_bias is not None:
                    d += gl.load(depthwise_bias + c, k_mask, other=0.0)[None, :]
                d = mid.fn(d, parameter(mid.a, c, k_mask), mid.b)
                if CLEAR_K:
                    d = gl.where(k_mask[None, :], d, 0.0)
                rows.slice(j * runs, runs, dim=0).store(d.to(type))
            fence_async_shared()
            mbarrier.arrive(full.index(slot), count=1)
        buffer, parity = _next(buffer, parity, DEPTH)


@gluon.jit
def _load_weight(
    weight, blocks, passes, ring_smem, full, free,
    BLOCK_N: gl.constexpr, BLOCK_K: gl.constexpr, CHUNKS: gl.constexpr, STAGES: gl.constexpr,
):
    stage = 0
    parity = 1
    for _ in range(gl.program_id(0), blocks, gl.num_programs(0)):
        for i in range(passes):
            for chunk in range(CHUNKS):
                mbarrier.wait(free.index(stage), parity)
                mbarrier.expect(full.index(stage), BLOCK_K * BLOCK_N * 2)
                tma.async_copy_global_to_shared(
                    weight, [chunk * BLOCK_K, i * BLOCK_N], full.index(stage), ring_smem.index(stage)
                )
                stage, parity = _next(stage, parity, STAGES)


@gluon.jit
def _parts(x, COUNT: gl.constexpr):
    """The columns of a block in COUNT parts, each thread's registers among them."""
    if COUNT == 1:
        return (x,)
    else:
        low, high = x.reshape([x.shape[0], 2, x.shape[1] // 2]).permute(0, 2, 1).split()
        return _parts(low, COUNT // 2) + _parts(high, COUNT // 2)


@gluon.jit
def _multiply(
    out, end, size, blocks, passes, kept_smem, kept_full, kept_free, ring_smem, ring_full, ring_free,
    BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, CHUNKS: gl.constexpr, DEPTH: gl.constexpr, STAGES: gl.constexpr,
    RUN: gl.constexpr, ALIGN_N: gl.constexpr, WARPS: gl.constexpr,
):
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, BLOCK_N, 16])
    # Columns that are finished together: with all of them at once there would be no registers for a residual.
    part: gl.constexpr = 32
    of_part: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, part, 16])
    columns = size.columns // ALIGN_N * ALIGN_N
    i = gl.arange(0, BLOCK_M, gl.SliceLayout(1, of_part))
    within_block = i % (BLOCK_M // RUN) * RUN + i // (BLOCK_M // RUN)  # rows go through the runs first
    await_launches()
    stage, stage_parity = 0, 0
    buffer, parity = 0, 0
    for block in range(gl.program_id(0), blocks, gl.num_programs(0)):
        m = (block * BLOCK_M + within_block).to(gl.int64)
        m_mask = m < size.pixels
        for p in range(passes):
            last = p == passes - 1
            acc = gl.full([BLOCK_M, BLOCK_N], 0.0, gl.float32, layout)
            before, slot_before = 0, 0  # the stage and the slot of the product that is still going on
            for chunk in range(CHUNKS):
                slot = buffer * CHUNKS + chunk
                mbarrier.wait(kept_full.index(slot), parity)
                mbarrier.wait(ring_full.index(stage), stage_parity)
                acc = warpgroup_mma(kept_smem.index(slot), ring_smem.index(stage), acc, is_async=True)
                acc = warpgroup_mma_wait(1, deps=(acc,))
                mbarrier.arrive(ring_free.index(before), count=1, pred=chunk > 0)
                mbarrier.arrive(kept_free.index(slot_before), count=1, pred=last & (chunk > 0))
                before, slot_before = stage, slot
                stage, stage_parity = _next(stage, stage_parity, STAGES)
            acc = warpgroup_mma_wait(0, deps=(acc,))
            mbarrier.arrive(ring_free.index(before), count=1)
            mbarrier.arrive(kept_free.index(slot_before), count=1, pred=last)
            parts = _parts(acc, BLOCK_N // part)
            for q in gl.static_range(BLOCK_N // part):
                n = p * BLOCK_N + q * part + gl.arange(0, part, gl.SliceLayout(0, of_part))
                n_mask = n < columns
                y = activated(gl.convert_layout(parts[q], of_part, assert_trivial=True), end, n, n_mask)
                store_rows(y, end, out, size.row, m, n, m_mask, n_mask, ALIGN_N)
        buffer, parity = _next(buffer, parity, DEPTH)


@gluon.jit
def separable_specialised(
    x, depthwise, depthwise_bias, weight, out, pre, mid, end, size,  # x: read by the copy engine, as pixels
    HALF: gl.constexpr, CLEAR_K: gl.constexpr,
    KH: gl.constexpr, KW: gl.constexpr, TOP: gl.constexpr, LEFT: gl.constexpr, ALIGN_N: gl.constexpr,
    BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, BLOCK_K: gl.constexpr,
    CHUNKS: gl.constexpr, DEPTH: gl.constexpr, HALO: gl.constexpr, HALOS: gl.constexpr, STAGES: gl.constexpr,
    RUN: gl.constexpr, PRODUCERS: gl.constexpr, REGISTERS: gl.constexpr,
):
    type: gl.constexpr = weight.dtype
    layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BLOCK_M, BLOCK_K], type)
    halo_smem = gl.allocate_shared_memory(type, [HALOS * (HALO // _BOX), _BOX, BLOCK_K], x.layout)
    kept_smem = gl.allocate_shared_memory(type, [DEPTH * CHUNKS, BLOCK_M, BLOCK_K], layout)
    ring_smem = gl.allocate_shared_memory(type, [STAGES, BLOCK_K, BLOCK_N], weight.layout)
    halo_full = gl.allocate_shared_memory(gl.int64, [HALOS, 1], mbarrier.MBarrierLayout())
    halo_free = gl.allocate_shared_memory(gl.int64, [HALOS, 1], mbarrier.MBarrierLayout())
    kept_full = gl.allocate_shared_memory(gl.int64, [DEPTH * CHUNKS, 1], mbarrier.MBarrierLayout())
    kept_free = gl.allocate_shared_memory(gl.int64, [DEPTH * CHUNKS, 1], mbarrier.MBarrierLayout())
    ring_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    ring_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(HALOS):
        mbarrier.init(halo_full.index(i), count=1)
        mbarrier.init(halo_free.index(i), count=1)
    for i in gl.static_range(DEPTH * CHUNKS):
        mbarrier.init(kept_full.index(i), count=1)
        mbarrier.init(kept_free.index(i), count=1)
    for i in gl.static_range(STAGES):
        mbarrier.init(ring_full.index(i), count=1)
        mbarrier.init(ring_free.index(i), count=1)
    fence_async_shared()

    blocks, passes = gl.cdiv(size.pixels, BLOCK_M), gl.cdiv(size.columns, BLOCK_N)
    gl.warp_specialize(
        [
            (_multiply, (out, end, size, blocks, passes, kept_smem, kept_full, kept_free,
                         ring_smem, ring_full, ring_free, BLOCK_M, BLOCK_N, CHUNKS, DEPTH, STAGES, RUN, ALIGN_N,
                         gl.num_warps())),
            (_produce, (depthwise, depthwise_bias, pre, mid, size, blocks, halo_smem, halo_full, halo_free,
                        kept_smem, kept_full, kept_free, HALF, CLEAR_K, KH, KW, TOP, LEFT, BLOCK_M, BLOCK_K, CHUNKS,
                        DEPTH, HALO, HALOS, RUN, PRODUCERS)),
            (_load_halo, (x, size, blocks, halo_smem, halo_full, halo_free, TOP, LEFT,
                          BLOCK_M, BLOCK_K, CHUNKS, HALO, HALOS)),
            (_load_weight, (weight, blocks, passes, ring_smem, ring_full, ring_free,
                            BLOCK_N, BLOCK_K, CHUNKS, STAGES)),
        ],
        [PRODUCERS, 1, 1],
        [REGISTERS, 24, 24],
    )
# fmt: on
