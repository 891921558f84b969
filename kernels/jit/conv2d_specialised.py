# mypy: disable-error-code="no-untyped-def,untyped-decorator,assignment,no-redef"
"""kh x kw convolution on Hopper by warps that are specialised, with taps out of shared memory; see
`frame/halo_launch.py`.

A program owns BLOCK_N columns of BLOCK_M output pixels: so many positions along one axis of the map, each of BOX0
images, and of several rows across that axis. For each row of taps along it and each chunk of BLOCK_K channels, its halo
is the positions that these taps read. In shared memory a position is a block of rows, a whole number of swizzle
patterns: so what a tap multiplies is a part of the halo that begins some blocks further on. Warps meet at mbarriers:

    load the halo    one warp: the copy engine fetches it position by position into a ring of HALOS, with zeros for the
                     padding. With a stride, positions of each remainder by themselves: they are side by side then
    load weights     one warp: [BLOCK_K, BLOCK_N] of a tap in panels of 64 columns, into a ring of STAGES. Of int8,
                     columns are rows there: the tensor cores want bytes of one side by side
    multiply         the others: wgmma of each group of their pixels and a stage, both in shared memory

The products of one tap are always under way. A stage is free when those of the next tap have been issued and its own
are over in all warps that multiply, a halo after its last tap. Those who touch what launches write wait for earlier
ones, each by itself; weights are fetched before. Sums of integers begin with what the grid's zero adds to them.
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

from optgraph.kernels.jit.dependence import await_launches
from optgraph.kernels.jit.epilogue import activated, joined_by, parameter
from optgraph.kernels.jit.grid import settled

_PANEL = gl.constexpr(64)  # columns that one swizzled block of weights has, 128 bytes
_PART = gl.constexpr(32)  # columns that are finished together: with more there would be no registers for a residual


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
def _load_positions(
    x, halo_smem, full, free, stage, parity, image, row, column, channel, count,
    DOWN: gl.constexpr, STRIDE: gl.constexpr, HALO: gl.constexpr, BYTES: gl.constexpr,
):
    """`count` positions, BYTES in all, the first at (row, column), into one stage of the ring."""
    mbarrier.wait(free.index(stage), parity)
    mbarrier.expect(full.index(stage), BYTES)
    for j in range(count):
        h, w = row, column
        if DOWN:
            h += j * STRIDE
        else:
            w += j * STRIDE
        tma.async_copy_global_to_shared(
            x, [image, h, w, channel], full.index(stage), halo_smem.index(stage * HALO + j)
        )


@gluon.jit
def _load_halo(
    x, window, size, image, first_h, first_w, halo_smem, full, free,
    DOWN: gl.constexpr, TAPS: gl.constexpr, STRIDE: gl.constexpr,
    POSITIONS: gl.constexpr, PIXELS: gl.constexpr, HALO: gl.constexpr, HALOS: gl.constexpr, BLOCK_K: gl.constexpr,
    BYTES: gl.constexpr,
):
    rows = window.kernel_w if DOWN else window.kernel_h
    top, left = first_h * window.stride_h - window.top, first_w * window.stride_w - window.left
    await_launches()
    stage = 0
    parity = 1  # of a phase that is over before any stage was freed
    for r in range(rows):
        for chunk in range(gl.cdiv(size.channels, BLOCK_K)):
            for q in gl.static_range(STRIDE):
                if DOWN:
                    h, w, taps = top + q, left + r, window.kernel_h
                else:
                    h, w, taps = top + r, left + q, window.kernel_w
                # By what is known when it runs: of a loop that is unrolled every place would take a register.
                count = POSITIONS + (taps - 1 - q) // STRIDE
                _load_positions(
                    x, halo_smem, full, free, stage, parity, image, h, w, chunk * BLOCK_K, count,
                    DOWN, STRIDE, HALO, (POSITIONS + (TAPS - 1 - q) // STRIDE) * PIXELS * BLOCK_K * BYTES,
                )
                stage, parity = _next(stage, parity, HALOS)


@gluon.jit
def _load_weight(
    weight, window, size, first_n, ring_smem, full, free,
    DOWN: gl.constexpr, TAPS: gl.constexpr, STRIDE: gl.constexpr,
    PANELS: gl.constexpr, STAGES: gl.constexpr, BLOCK_K: gl.constexpr, BYTES: gl.constexpr,
):
    rows = window.kernel_w if DOWN else window.kernel_h
    stage = 0
    parity = 1
    for r in range(rows):
        for chunk in range(gl.cdiv(size.channels, BLOCK_K)):
            for q in gl.static_range(STRIDE):
                for t in range((TAPS - 1 - q) // STRIDE + 1):
                    s = q + t * STRIDE
                    tap = s * rows + r if DOWN else r * TAPS + s
                    mbarrier.wait(free.index(stage), parity)
                    mbarrier.expect(full.index(stage), PANELS * _PANEL * BLOCK_K * BYTES)
                    for p in gl.static_range(PANELS):
                        # Beyond the last channel of a tap x gives zeros, which silence the next tap's weights.
                        k, n = tap * size.channels + chunk * BLOCK_K, first_n + p * _PANEL
                        corner = [n, k] if BYTES == 1 else [k, n]
                        tma.async_copy_global_to_shared(
                            weight, corner, full.index(stage), ring_smem.index(stage * PANELS + p)
                        )
                    stage, parity = _next(stage, parity, STAGES)


@gluon.jit
def _places(first_h, first_w, LAYOUT: gl.constexpr, DOWN: gl.constexpr, POSITION: gl.constexpr, BOX0: gl.constexpr,
            BOX1: gl.constexpr, BOX2: gl.constexpr, BLOCK_M: gl.constexpr):
    """Of a group's pixels: the image, from the program's first, the row and the column. POSITION: where it begins."""
    i = gl.arange(0, BLOCK_M, gl.SliceLayout(1, LAYOUT))
    position, within = i // (BOX0 * BOX1 * BOX2), i % (BOX0 * BOX1 * BOX2)
    h, w = first_h + within // BOX2 % BOX1, first_w + within % BOX2
    if DOWN:
        h += POSITION + position
    else:
        w += POSITION + position
    return within // (BOX1 * BOX2), h, w


@gluon.jit
def _begun(
    end, kinds, size, first_h, first_w, first_n,
    KINDS: gl.constexpr, DOWN: gl.constexpr, POSITION: gl.constexpr, BOX0: gl.constexpr, BOX1: gl.constexpr,
    BOX2: gl.constexpr, BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, ALIGN_N: gl.constexpr,
):
    """An accumulator of a group's rows."""
    if end.scale is None:
        layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [BLOCK_M // 16, 1], [16, BLOCK_N, 16])
        return gl.full([BLOCK_M, BLOCK_N], 0.0, gl.float32, layout)
    else:
        layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [BLOCK_M // 16, 1], [16, BLOCK_N, 32])
        acc = gl.full([BLOCK_M, BLOCK_N], 0, gl.int32, layout)
        if end.start is not None:
            columns = size.columns // ALIGN_N * ALIGN_N
            n = first_n + gl.arange(0, BLOCK_N, gl.SliceLayout(0, layout))
            if KINDS:
                _, h, w = _places(first_h, first_w, layout, DOWN, POSITION, BOX0, BOX1, BOX2, BLOCK_M)
                down = gl.minimum(h, kinds.top) + gl.maximum(h - kinds.bottom, 0)
                across = gl.minimum(w, kinds.left) + gl.maximum(w - kinds.right, 0)
                row = (down * kinds.across + across) * columns
                mask = ((h < size.height) & (w < size.width))[:, None] & (n < columns)[None, :]
                acc = gl.load(end.start + (row[:, None] + n[None, :]), mask, other=0)
            else:
                acc += gl.load(end.start + n, n < columns, other=0)[None, :]
        return acc


@gluon.jit
def _waited(accs, left: gl.constexpr):
    """The accumulators, when no more than `left` products are under way."""
    if len(accs) == 1:
        return (warpgroup_mma_wait(left, deps=accs),)
    else:
        return warpgroup_mma_wait(left, deps=accs)


@gluon.jit
def _columns(panel, BLOCK_K: gl.constexpr, COLUMNS: gl.constexpr):
    """[BLOCK_K, COLUMNS] of weights, from `panel` on."""
    type: gl.constexpr = panel.dtype
    if type == gl.int8:
        layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([COLUMNS, BLOCK_K], type)
        return panel._reinterpret(type, [COLUMNS, BLOCK_K], layout).permute([1, 0])
    else:
        layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BLOCK_K, COLUMNS], type)
        return panel._reinterpret(type, [BLOCK_K, COLUMNS], layout)


@gluon.jit
def _multiplied(
    accs, halo_smem, ring_smem, place, stage,
    GROUPS: gl.constexpr, APART: gl.constexpr, BLOCK_M: gl.constexpr, BLOCK_K: gl.constexpr,
    PANELS: gl.constexpr, WIDE: gl.constexpr, REST: gl.constexpr,
):
    """The accumulators with the products of one tap under way. place: its first position in the halo's memory."""
    type: gl.constexpr = halo_smem.dtype
    a_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BLOCK_M, BLOCK_K], type)
    b = _columns(ring_smem.index(stage * PANELS), BLOCK_K, WIDE)
    if REST > 0:
        rest = _columns(ring_smem.index(stage * PANELS + WIDE // _PANEL), BLOCK_K, REST)
    new = ()
    for g in gl.static_range(GROUPS):
        a = halo_smem.index(place + g * APART)._reinterpret(type, [BLOCK_M, BLOCK_K], a_layout)
        new += (warpgroup_mma(a, b, accs[len(new)], is_async=True),)
        if REST > 0:
            new += (warpgroup_mma(a, rest, accs[len(new)], is_async=True),)
    return new


@gluon.jit
def _halves(x, COUNT: gl.constexpr):
    """The columns of a block in COUNT parts, each thread's registers among them."""
    if COUNT == 1:
        return (x,)
    else:
        low, high = x.reshape([x.shape[0], 2, x.shape[1] // 2]).permute(0, 2, 1).split()
        return _halves(low, COUNT // 2) + _halves(high, COUNT // 2)


@gluon.jit
def _finish(
    acc, out, end, size, m, m_mask, first_n, ALIGN_N: gl.constexpr, LAYOUT: gl.constexpr, STORED: gl.constexpr
):
    """Stores a group's sums at pixels m. LAYOUT: of a part of them; STORED: as it is stored, and a residual loaded."""
    columns = size.columns // ALIGN_N * ALIGN_N
    row, residual_row = size.row // ALIGN_N * ALIGN_N, end.residual_row // ALIGN_N * ALIGN_N
    parts = _halves(acc, acc.shape[1] // _PART)
    for p in gl.static_range(acc.shape[1] // _PART):
        n = first_n + p * _PART + gl.arange(0, _PART, gl.SliceLayout(0, LAYOUT))
        to = first_n + p * _PART + gl.arange(0, _PART, gl.SliceLayout(0, STORED))
        n_mask, mask = n < columns, m_mask[:, None] & (to < columns)[None, :]
        y = activated(gl.convert_layout(parts[p], LAYOUT, assert_trivial=True), end, n, n_mask)
        if end.residual is not None:
            added = gl.load(end.residual + m[:, None] * residual_row + to[None, :], mask, other=0.0)
            y = joined_by(y, gl.convert_layout(added, LAYOUT), end)
        y = end.post(y, parameter(end.post_a, n, n_mask), end.post_b)
        y = gl.convert_layout(settled(y, end, out.dtype.element_ty), STORED)
        gl.store(out + m[:, None] * row + to[None, :], y, mask)


@gluon.jit
def _multiply(
    out, window, end, size, kinds, image, first_h, first_w, first_n,
    halo_smem, halo_full, halo_free, ring_smem, ring_full, ring_free,
    KINDS: gl.constexpr, DOWN: gl.constexpr, TAPS: gl.constexpr, STRIDE: gl.constexpr,
    BOX0: gl.constexpr, BOX1: gl.constexpr, BOX2: gl.constexpr, GROUPS: gl.constexpr, BLOCK_N: gl.constexpr,
    BLOCK_K: gl.constexpr, HALO: gl.constexpr, HALOS: gl.constexpr, STAGES: gl.constexpr,
    ALIGN_N: gl.constexpr, WARPS: gl.constexpr,
):
    block_m: gl.constexpr = 16 * WARPS
    apart: gl.constexpr = block_m // (BOX0 * BOX1 * BOX2)  # positions of a group
    panels: gl.constexpr = BLOCK_N // _PANEL
    wide: gl.constexpr = BLOCK_N if panels != 3 else 2 * _PANEL  # blocks are powers of two
    rest: gl.constexpr = BLOCK_N - wide
    rows = window.kernel_w if DOWN else window.kernel_h
    accs = ()
    for g in gl.static_range(GROUPS):
        accs += (_begun(end, kinds, size, first_h, first_w, first_n, KINDS, DOWN, g * apart, BOX0, BOX1, BOX2,
                        block_m, wide, ALIGN_N),)
        if rest > 0:
            accs += (_begun(end, kinds, size, first_h, first_w, first_n + wide, KINDS, DOWN, g * apart, BOX0, BOX1,
                            BOX2, block_m, rest, ALIGN_N),)
    await_launches()
    halo, halo_parity = 0, 0
    stage, parity = 0, 0
    halo_before, before = 0, 0  # those of the products that are still under way
    for step in range(rows * gl.cdiv(size.channels, BLOCK_K)):
        for q in gl.static_range(STRIDE):
            mbarrier.wait(halo_full.index(halo), halo_parity)
            for t in gl.static_range((TAPS - 1 - q) // STRIDE + 1):
                mbarrier.wait(ring_full.index(stage), parity)
                accs = _multiplied(
                    accs, halo_smem, ring_smem, halo * HALO + t, stage,
                    GROUPS, apart, block_m, BLOCK_K, panels, wide, rest,
                )
                accs = _waited(accs, len(accs))
                if q + t == 0:
                    mbarrier.arrive(ring_free.index(before), count=1, pred=step > 0)
                    mbarrier.arrive(halo_free.index(halo_before), count=1, pred=step > 0)
                else:
                    mbarrier.arrive(ring_free.index(before), count=1)
                    if t == 0:
                        mbarrier.arrive(halo_free.index(halo_before), count=1)
                before = stage
                stage, parity = _next(stage, parity, STAGES)
            halo_before = halo
            halo, halo_parity = _next(halo, halo_parity, HALOS)
    accs = _waited(accs, 0)

    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, _PART, 16])
    # A thread has pairs of columns. Of bytes it gets eight in a row, out of its own row: its quad has a sector.
    bytes: gl.constexpr = gl.DistributedLinearLayout(
        [[0, 1], [0, 2], [0, 16], [8, 0]], [[0, 8], [0, 4], [1, 0], [2, 0], [4, 0]], [[16, 0], [32, 0], [64, 0]], [],
        [block_m, _PART],
    )
    stored: gl.constexpr = bytes if out.dtype.element_ty == gl.int8 else layout
    each: gl.constexpr = len(accs) // GROUPS
    for g in gl.static_range(GROUPS):
        within, h, w = _places(first_h, first_w, stored, DOWN, g * apart, BOX0, BOX1, BOX2, block_m)
        n = image + within
        m = (n.to(gl.int64) * size.height + h) * size.width + w
        m_mask = (h < size.height) & (w < size.width) & (m < size.pixels)
        _finish(accs[g * each], out, end, size, m, m_mask, first_n, ALIGN_N, layout, stored)
        if each == 2:
            _finish(accs[g * each + 1], out, end, size, m, m_mask, first_n + wide, ALIGN_N, layout, stored)


@gluon.jit
def conv2d_specialised(
    x, weight, out, window, end, size,  # x, weight: read by the copy engine, [images, rows, columns, BLOCK_K], a panel
    kinds,  # of pixels, by which taps are inside x
    ALIGN_N: gl.constexpr, KINDS: gl.constexpr,
    DOWN: gl.constexpr, TAPS: gl.constexpr, STRIDE: gl.constexpr,  # along the rows, or down; taps and stride there
    BOX0: gl.constexpr, BOX1: gl.constexpr, BOX2: gl.constexpr,  # pixels of a position
    BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, BLOCK_K: gl.constexpr,
    HALOS: gl.constexpr, STAGES: gl.constexpr, REGISTERS: gl.constexpr,
):
    type: gl.constexpr = x.dtype
    item: gl.constexpr = type.primitive_bitwidth // 8
    positions: gl.constexpr = BLOCK_M // (BOX0 * BOX1 * BOX2)
    halo: gl.constexpr = positions + (TAPS - 1) // STRIDE
    panels: gl.constexpr = BLOCK_N // _PANEL
    halo_smem = gl.allocate_shared_memory(type, [HALOS * halo, BOX0, BOX1, BOX2, BLOCK_K], x.layout)
    rows: gl.constexpr = _PANEL if type == gl.int8 else BLOCK_K
    row: gl.constexpr = BLOCK_K if type == gl.int8 else _PANEL
    ring_smem = gl.allocate_shared_memory(type, [STAGES * panels, rows, row], weight.layout)
    halo_full = gl.allocate_shared_memory(gl.int64, [HALOS, 1], mbarrier.MBarrierLayout())
    halo_free = gl.allocate_shared_memory(gl.int64, [HALOS, 1], mbarrier.MBarrierLayout())
    ring_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    ring_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(HALOS):
        mbarrier.init(halo_full.index(i), count=1)
        mbarrier.init(halo_free.index(i), count=1)
    for i in gl.static_range(STAGES):
        mbarrier.init(ring_full.index(i), count=1)
        mbarrier.init(ring_free.index(i), count=1)
    fence_async_shared()

    # Columns first, then along the axis: what programs side by side read is the same, or overlaps.
    step_h: gl.constexpr = positions if DOWN else BOX1
    step_w: gl.constexpr = BOX2 if DOWN else positions
    tiles_h, tiles_w = gl.cdiv(size.height, step_h), gl.cdiv(size.width, step_w)
    tiles_n = gl.cdiv(size.columns, BLOCK_N)
    pid = gl.program_id(0)
    first_n = pid % tiles_n * BLOCK_N
    pid = pid // tiles_n
    if DOWN:
        first_h, first_w = pid % tiles_h * step_h, pid // tiles_h % tiles_w * step_w
    else:
        first_h, first_w = pid // tiles_w % tiles_h * step_h, pid % tiles_w * step_w
    image = pid // (tiles_h * tiles_w) * BOX0
    gl.warp_specialize(
        [
            (_multiply, (out, window, end, size, kinds, image, first_h, first_w, first_n,
                         halo_smem, halo_full, halo_free, ring_smem, ring_full, ring_free, KINDS, DOWN, TAPS,
                         STRIDE, BOX0, BOX1, BOX2, BLOCK_M // (16 * gl.num_warps()), BLOCK_N, BLOCK_K, halo, HALOS,
                         STAGES, ALIGN_N, gl.num_warps())),
            (_load_halo, (x, window, size, image, first_h, first_w, halo_smem, halo_full, halo_free,
                          DOWN, TAPS, STRIDE, positions, BOX0 * BOX1 * BOX2, halo, HALOS, BLOCK_K, item)),
            (_load_weight, (weight, window, size, first_n, ring_smem, ring_full, ring_free,
                            DOWN, TAPS, STRIDE, panels, STAGES, BLOCK_K, item)),
        ],
        [1, 1],
        [REGISTERS, REGISTERS],
    )
# fmt: on
