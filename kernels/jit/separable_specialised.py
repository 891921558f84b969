# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Depthwise convolution feeding a 1x1 convolution, on Hopper by warps that are specialised; see `kernels/separable.py`.

A program owns BLOCK_M pixels and all columns. Its warps run side by side, and meet at mbarriers only:

    produce    PRODUCERS warps: the depthwise of every chunk of BLOCK_K channels, once, into shared memory; it stays
    load       one warp: the copy engine fetches weights [BLOCK_K, BLOCK_N] into a ring of STAGES, for every block of
               columns, chunk by chunk
    multiply   the others: wgmma of a chunk and a stage, both in shared memory

What a producer has stored, wgmma may see after a fence by that thread; then one of them arrives for all, behind a
barrier of theirs. A stage is free when the product that read it is over in all warps that multiply. Those who touch
what launches write wait for earlier ones, each by itself; weights are fetched before.
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

from optgraph.kernels.jit.addressing import strip_position
from optgraph.kernels.jit.dependence import await_launches
from optgraph.kernels.jit.epilogue import activated, parameter, store_rows


# fmt: off
@gluon.jit
def _produce(
    x, depthwise, depthwise_bias, image, window, pre, mid, size, first, chunks_smem, full,
    DILATED: gl.constexpr, HALF: gl.constexpr, CLEAR: gl.constexpr, CLEAR_K: gl.constexpr,
    KH: gl.constexpr, KW: gl.constexpr, STRIP: gl.constexpr,
    BLOCK_M: gl.constexpr, BLOCK_K: gl.constexpr, CHUNKS: gl.constexpr, PRODUCERS: gl.constexpr,
):
    # Eight channels a thread, 16 bytes.
    threads: gl.constexpr = BLOCK_K // 8
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [32 // threads, threads], [PRODUCERS, 1], [1, 0])
    summed: gl.constexpr = gl.float16 if HALF else gl.float32
    channels = size.channels // 8 * 8
    stride_n, stride_h, stride_w = image.stride_n // 8 * 8, image.stride_h // 8 * 8, image.stride_w // 8 * 8
    dilation_h, dilation_w = 1, 1
    if DILATED:
        dilation_h, dilation_w = window.dilation_h, window.dilation_w
    tap_h, tap_w = dilation_h * stride_h, dilation_w * stride_w
    k = gl.arange(0, BLOCK_K, gl.SliceLayout(0, layout))
    position = first + gl.arange(0, BLOCK_M, gl.SliceLayout(1, layout))
    picture, oh, ow = strip_position(position, size.height, size.width, STRIP)
    m_mask = (position < size.pixels) & (oh < size.height)
    top = oh * window.stride_h - window.top
    left = ow * window.stride_w - window.left
    origin = picture.to(gl.int64) * stride_n + top.to(gl.int64) * stride_h + left.to(gl.int64) * stride_w
    x_block = x + origin[:, None] + k[None, :]  # [BLOCK_M, BLOCK_K], may point before x
    await_launches()
    for chunk in range(CHUNKS):
        base = chunk * BLOCK_K
        c = base + k
        k_mask = c < channels
        d = gl.full([BLOCK_M, BLOCK_K], 0.0, gl.float32, layout)
        for r in range(KH):
            h = top + r * dilation_h
            row_mask = m_mask & (h >= 0) & (h < image.height)
            row = gl.full([BLOCK_M, BLOCK_K], 0.0, summed, layout)
            for s in gl.static_range(KW):
                w = left + s * dilation_w
                inside = (row_mask & (w >= 0) & (w < image.width))[:, None] & k_mask[None, :]
                a = gl.load(x_block + (base + r * tap_h + s * tap_w), inside, other=0.0).to(summed)
                if pre.act is not None:
                    a = pre.act(a, pre.a, pre.b)
                    if CLEAR:
                        a = gl.where(inside, a, 0.0)
                tap = gl.load(depthwise + (r * KW + s) * channels + c, k_mask, other=0.0).to(summed)
                row += a * tap[None, :]
            d += row.to(gl.float32)
        if depthwise_bias is not None:
            d += gl.load(depthwise_bias + c, k_mask, other=0.0)[None, :]
        d = mid.fn(d, parameter(mid.a, c, k_mask), mid.b)
        if CLEAR_K:
            d = gl.where(k_mask[None, :], d, 0.0)
        chunks_smem.index(chunk).store(d.to(chunks_smem.dtype))
        fence_async_shared()
        mbarrier.arrive(full.index(chunk), count=1)


@gluon.jit
def _load(
    weight, stages_smem, full, free, passes,
    BLOCK_N: gl.constexpr, BLOCK_K: gl.constexpr, CHUNKS: gl.constexpr, STAGES: gl.constexpr,
):
    stage = 0
    parity = 1  # of a phase that is over before any stage was freed
    for i in range(passes):
        for chunk in range(CHUNKS):
            mbarrier.wait(free.index(stage), parity)
            mbarrier.expect(full.index(stage), BLOCK_K * BLOCK_N * 2)
            tma.async_copy_global_to_shared(
                weight, [chunk * BLOCK_K, i * BLOCK_N], full.index(stage), stages_smem.index(stage)
            )
            stage += 1
            if stage == STAGES:
                stage = 0
                parity ^= 1


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
    out, end, size, first, passes, chunks_smem, chunk_full, stages_smem, stage_full, stage_free,
    STRIP: gl.constexpr, BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, CHUNKS: gl.constexpr, STAGES: gl.constexpr,
    ALIGN_N: gl.constexpr, WARPS: gl.constexpr,
):
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, BLOCK_N, 16])
    # Columns that are finished together: with all of them at once there would be no registers for a residual.
    part: gl.constexpr = 32
    of_part: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, part, 16])
    columns = size.columns // ALIGN_N * ALIGN_N
    await_launches()
    stage = 0
    parity = 0
    for i in range(passes):
        acc = gl.full([BLOCK_M, BLOCK_N], 0.0, gl.float32, layout)
        before = 0  # the stage of the product that is still going on
        for chunk in range(CHUNKS):
            mbarrier.wait(chunk_full.index(chunk), 0)
            mbarrier.wait(stage_full.index(stage), parity)
            acc = warpgroup_mma(chunks_smem.index(chunk), stages_smem.index(stage), acc, is_async=True)
            acc = warpgroup_mma_wait(1, deps=(acc,))
            mbarrier.arrive(stage_free.index(before), count=1, pred=chunk > 0)
            before = stage
            stage += 1
            if stage == STAGES:
                stage = 0
                parity ^= 1
        acc = warpgroup_mma_wait(0, deps=(acc,))
        mbarrier.arrive(stage_free.index(before), count=1)

        position = first + gl.arange(0, BLOCK_M, gl.SliceLayout(1, of_part))
        picture, oh, ow = strip_position(position, size.height, size.width, STRIP)
        m_mask = (position < size.pixels) & (oh < size.height)
        m = (picture.to(gl.int64) * size.height + oh) * size.width + ow
        parts = _parts(acc, BLOCK_N // part)
        for p in gl.static_range(BLOCK_N // part):
            n = i * BLOCK_N + p * part + gl.arange(0, part, gl.SliceLayout(0, of_part))
            n_mask = n < columns
            y = activated(gl.convert_layout(parts[p], of_part, assert_trivial=True), end, n, n_mask)
            store_rows(y, end, out, size.row, m, n, m_mask, n_mask, ALIGN_N)


@gluon.jit
def separable_specialised(
    x, depthwise, depthwise_bias, weight, out, image, window, pre, mid, end,
    size,  # pixels: N*strips*STRIP*Wo
    DILATED: gl.constexpr, HALF: gl.constexpr, CLEAR: gl.constexpr, CLEAR_K: gl.constexpr,
    KH: gl.constexpr, KW: gl.constexpr, STRIP: gl.constexpr, ALIGN_N: gl.constexpr,
    BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, BLOCK_K: gl.constexpr,
    CHUNKS: gl.constexpr, STAGES: gl.constexpr, PRODUCERS: gl.constexpr, REGISTERS: gl.constexpr,
):
    type: gl.constexpr = weight.dtype
    layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BLOCK_M, BLOCK_K], type)
    chunks_smem = gl.allocate_shared_memory(type, [CHUNKS, BLOCK_M, BLOCK_K], layout)
    stages_smem = gl.allocate_shared_memory(type, [STAGES, BLOCK_K, BLOCK_N], weight.layout)
    chunk_full = gl.allocate_shared_memory(gl.int64, [CHUNKS, 1], mbarrier.MBarrierLayout())
    stage_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    stage_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(CHUNKS):
        mbarrier.init(chunk_full.index(i), count=1)
    for i in gl.static_range(STAGES):
        mbarrier.init(stage_full.index(i), count=1)
        mbarrier.init(stage_free.index(i), count=1)
    fence_async_shared()

    first = gl.program_id(0) * BLOCK_M
    passes = gl.cdiv(size.columns, BLOCK_N)
    gl.warp_specialize(
        [
            (_multiply, (out, end, size, first, passes, chunks_smem, chunk_full, stages_smem, stage_full, stage_free,
                         STRIP, BLOCK_M, BLOCK_N, CHUNKS, STAGES, ALIGN_N, gl.num_warps())),
            (_produce, (x, depthwise, depthwise_bias, image, window, pre, mid, size, first, chunks_smem, chunk_full,
                        DILATED, HALF, CLEAR, CLEAR_K, KH, KW, STRIP, BLOCK_M, BLOCK_K, CHUNKS, PRODUCERS)),
            (_load, (weight, stages_smem, stage_full, stage_free, passes, BLOCK_N, BLOCK_K, CHUNKS, STAGES)),
        ],
        [PRODUCERS, 1],
        [REGISTERS, 24],
    )
# fmt: on
