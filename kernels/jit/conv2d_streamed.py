# mypy: disable-error-code="no-untyped-def,untyped-decorator,assignment"
"""kh x kw convolution of few pixels on Hopper, as short a chain of instructions as can be; see `frame/streamed.py`.

A program owns BLOCK_N columns of BLOCK_M output pixels, or a share of their depth: STAGES steps of BLOCK_K channels of
a tap, each with a stage of shared memory of its own. Its one warpgroup

    begins       blocks of weights stream in before it waits for earlier launches, boxes of pixels right after
    multiplies   each block as it is there, both operands in shared memory: no warp waits for another
    joins        the sums of those who share the depth, all loaded at once by the last of them
    ends         out of registers, with what the epilogue reads loaded long before

Its place comes by multiplications: a division is a chain of some 150 clocks. Columns may be of several outputs, as in
`pointwise.py`.
"""

from __future__ import annotations

import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from optgraph.kernels.frame.streamed import SHIFT
from optgraph.kernels.jit.dependence import await_launches
from optgraph.kernels.jit.epilogue import joined_by, parameter, vector
from optgraph.kernels.jit.split_k import COUNTERS

_SHIFT = gl.constexpr(SHIFT)


# fmt: off
@gluon.jit
def _over(number, inverse):
    """number // divisor, by what `inverse_of` made of the divisor."""
    return (number * inverse) >> _SHIFT


@gluon.jit
def _allocated(COUNT: gl.constexpr, type: gl.constexpr, shape: gl.constexpr, layout: gl.constexpr):
    """COUNT blocks of shared memory, each by itself: between copies into parts of one, Triton has all warps meet."""
    if COUNT == 0:
        return ()
    else:
        block = gl.allocate_shared_memory(type, shape, layout)
        return (block,) + _allocated(COUNT - 1, type, shape, layout)  # noqa: RUF005 (Triton unpacks no tuple)


@gluon.jit
def _first(step, place, TAPS: gl.constexpr, BLOCK_K: gl.constexpr):
    """Row and column of the tap of a step, and its first channel."""
    if TAPS == 1:
        return 0, 0, step * BLOCK_K
    else:
        tap = _over(step, place.inverse_blocks)
        r = _over(tap, place.inverse_w)
        return r, tap - r * place.kernel_w, (step - tap * place.blocks) * BLOCK_K


@gluon.jit
def _next(r, s, base, place, TAPS: gl.constexpr, BLOCK_K: gl.constexpr):
    base += BLOCK_K
    if TAPS > 1:
        s += (base >= place.channels).to(gl.int32)
        base = gl.where(base < place.channels, base, 0)
        r += (s == place.kernel_w).to(gl.int32)
        s = gl.where(s < place.kernel_w, s, 0)
    return r, s, base


@gluon.jit
def _elements(rows: gl.constexpr, columns: gl.constexpr, layout: gl.constexpr):
    """Offsets in a block that is stored row by row."""
    i = gl.arange(0, rows, gl.SliceLayout(1, layout))
    return i[:, None] * columns + gl.arange(0, columns, gl.SliceLayout(0, layout))[None, :]


@gluon.jit
def _joined(acc, workspace, tile, SPLITS: gl.constexpr, layout: gl.constexpr):
    """(The sum of all programs' `acc`, whether this program is the last and so has it); see `split_k.py`."""
    rows: gl.constexpr = acc.shape[0]
    columns: gl.constexpr = acc.shape[1]
    counter = workspace.to(gl.pointer_type(gl.int32), bitcast=True) + tile
    first = workspace + COUNTERS + tile * SPLITS * (rows * columns)
    gl.store(first + gl.program_id(2) * (rows * columns) + _elements(rows, columns, layout), acc)
    tl.debug_barrier()
    last = gl.atomic_add(counter, 1, sem="acq_rel") == SPLITS - 1
    if last:
        # Through shared memory, all under way at once: into registers the compiler would load few at a time.
        across: gl.constexpr = columns // 4  # threads, of 16 bytes each
        copied: gl.constexpr = gl.BlockedLayout([1, 4], [32 // across, across], [gl.num_warps(), 1], [1, 0])
        kept: gl.constexpr = gl.SwizzledSharedLayout(4, 1, 8, [1, 0])
        smem = _allocated(SPLITS, gl.float32, [rows, columns], kept)
        for k in gl.static_range(SPLITS):
            part = first + k * (rows * columns) + _elements(rows, columns, copied)
            async_copy.async_copy_global_to_shared(smem[k], part)
        async_copy.commit_group()
        async_copy.wait_group(0)
        tl.debug_barrier()
        acc = smem[0].load(layout)
        for k in gl.static_range(1, SPLITS):
            acc += smem[k].load(layout)
        gl.store(counter, 0)
    return acc, last


@gluon.jit
def conv2d_streamed(
    x, weight, workspace, place, end,
    outs, sizes, out_rows, act_bits,  # outputs, their columns and row strides, and which of them have the activation
    TAPS: gl.constexpr, SEGMENTED: gl.constexpr, SPLITS: gl.constexpr, ALIGN_N: gl.constexpr,
    BOX0: gl.constexpr, BOX1: gl.constexpr, BOX2: gl.constexpr,
    BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, BLOCK_K: gl.constexpr, STAGES: gl.constexpr,
):
    type: gl.constexpr = x.dtype
    box: gl.constexpr = BOX0 * BOX1 * BOX2  # of the rows of a block so many are pixels
    bytes: gl.constexpr = (box + BLOCK_N) * BLOCK_K * 2
    x_layout: gl.constexpr = x.layout
    weight_layout: gl.constexpr = weight.layout
    barriers: gl.constexpr = mbarrier.MBarrierLayout()
    pixels = _allocated(STAGES, type, [1, 1, BLOCK_M, BLOCK_K], x_layout)
    weights = _allocated(STAGES, type, [BLOCK_K, BLOCK_N], weight_layout)
    full = _allocated(STAGES, gl.int64, [1], barriers)
    for i in gl.static_range(STAGES):
        mbarrier.init(full[i], count=1)
    fence_async_shared()
    for i in gl.static_range(STAGES):
        mbarrier.expect(full[i], bytes)

    pid, pid_n = gl.program_id(0), gl.program_id(1)
    out, own, row, start, segment = outs[0], sizes[0] // ALIGN_N * ALIGN_N, out_rows[0], 0, 0
    first_column = pid_n * BLOCK_N  # within the segment
    if SEGMENTED:
        before = 0  # its first tile of columns
        for j in gl.static_range(3):
            after = before + gl.cdiv(own, BLOCK_N)
            if pid_n >= after:
                start += own
                out, own, row, segment = outs[j + 1], sizes[j + 1] // ALIGN_N * ALIGN_N, out_rows[j + 1], j + 1
                before = after
        first_column = (pid_n - before) * BLOCK_N
    first = gl.program_id(2) * STAGES if SPLITS > 1 else 0
    r, s, base = _first(first, place, TAPS, BLOCK_K)
    for i in gl.static_range(STAGES):
        # Beyond the last channel of a tap x gives zeros, which silence the next tap's weights.
        k = (r * place.kernel_w + s) * place.channels + base
        tma.async_copy_global_to_shared(weight, [k, start + first_column], full[i], weights[i])
        r, s, base = _next(r, s, base, place, TAPS, BLOCK_K)

    rest = _over(pid, place.inverse2)
    place0 = _over(rest, place.inverse1)
    first2 = (pid - rest * place.tiles2) * BOX2
    first1 = (rest - place0 * place.tiles1) * BOX1
    first0 = place0 * BOX0
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [gl.num_warps(), 1], [16, BLOCK_N, 16])
    n = first_column + gl.arange(0, BLOCK_N, gl.SliceLayout(0, layout))
    n_mask = n < own
    i = gl.arange(0, BLOCK_M, gl.SliceLayout(1, layout))
    i0, i1, i2 = first0 + i // (BOX1 * BOX2), first1 + i // BOX2 % BOX1, first2 + i % BOX2
    m = ((i0 * place.size1 + i1) * place.size2 + i2).to(gl.int64)
    m_mask = (i < box) & (i0 < place.size0) & (i1 < place.size1) & (i2 < place.size2)
    mask = m_mask[:, None] & n_mask[None, :]
    bias = vector(end.bias, start + n[None, :], n_mask[None, :])

    await_launches()
    r, s, base = _first(first, place, TAPS, BLOCK_K)
    for i in gl.static_range(STAGES):
        channel = base
        if TAPS > 1:
            channel = gl.where(first + i < place.steps, base, place.channels)  # beyond the last step none: x is zero
        at = [first0, first1 + (r - place.top) * place.step, first2 + s - place.left, channel]
        tma.async_copy_global_to_shared(x, at, full[i], pixels[i])
        r, s, base = _next(r, s, base, place, TAPS, BLOCK_K)
    if end.residual is not None:
        residual_row = end.residual_row // ALIGN_N * ALIGN_N
        added = gl.load(end.residual + m[:, None] * residual_row + n[None, :], mask, other=0.0)

    acc = gl.full([BLOCK_M, BLOCK_N], 0.0, gl.float32, layout)
    a_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BLOCK_M, BLOCK_K], type)
    for i in gl.static_range(STAGES):
        mbarrier.wait(full[i], 0)
        a = pixels[i]._reinterpret(type, [BLOCK_M, BLOCK_K], a_layout)
        acc = warpgroup_mma(a, weights[i], acc, is_async=True)
    acc = warpgroup_mma_wait(0, deps=(acc,))

    whole = True
    if SPLITS > 1:
        for i in gl.static_range(STAGES):
            mbarrier.invalidate(full[i])  # the parts may come to where they are
        acc, whole = _joined(acc, workspace, pid_n * gl.num_programs(0) + pid, SPLITS, layout)
    if whole:
        if end.bias is not None:
            acc += bias
        if SEGMENTED:
            if (act_bits >> segment) & 1:
                acc = end.act(acc, end.a, end.b)
        else:
            acc = end.act(acc, parameter(end.a, n, n_mask), end.b)
        if end.residual is not None:
            acc = joined_by(acc, added, end)
        acc = end.post(acc, parameter(end.post_a, n, n_mask), end.post_b)
        row = row // ALIGN_N * ALIGN_N
        gl.store(out + m[:, None] * row + n[None, :], acc.to(out.dtype.element_ty), mask)
# fmt: on
