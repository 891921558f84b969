# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Max and average pooling over whole images; see `kernels/global_pool.py`."""

from __future__ import annotations

import triton
import triton.language as tl

from optgraph.kernels.jit.addressing import aligned, pixel_offset
from optgraph.kernels.jit.dependence import await_launches
from optgraph.kernels.jit.epilogue import prologue
from optgraph.kernels.jit.grid import settled


# fmt: off
@triton.jit
def global_pool(
    x, out, image, pre, act, grids, pixels, channels, out_n,  # H*W, C
    STRIDE_C: tl.constexpr, CLEAR: tl.constexpr, MAX: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    n = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)  # [BLOCK_N]
    c_mask = channel < aligned(channels, ALIGN)
    picture = x + n * aligned(image.stride_n, ALIGN) + channel * STRIDE_C
    await_launches()
    neutral = float("-inf") if MAX else 0.0
    acc = tl.full((BLOCK_M, BLOCK_N), neutral, dtype=tl.float32)
    for start in range(0, pixels, BLOCK_M):
        pixel = start + tl.arange(0, BLOCK_M)  # [BLOCK_M]
        offset = pixel_offset(pixel, pixels, image.width, 0, image.stride_h, image.stride_w, ALIGN)
        mask = (pixel < pixels)[:, None] & c_mask[None, :]
        v = tl.load(picture[None, :] + offset[:, None], mask, other=0.0 if CLEAR else neutral)
        v = prologue(v, pre, channel, c_mask)
        if CLEAR:
            v = tl.where(mask, v, neutral)
        if MAX:
            acc = tl.maximum(acc, v, propagate_nan=tl.PropagateNan.ALL)
        else:
            acc += v
    if MAX:
        # The reduction itself drops NaNs.
        broken = tl.max((acc != acc).to(tl.int32), axis=0) > 0
        y = tl.where(broken, float("nan"), tl.max(tl.where(acc != acc, neutral, acc), axis=0))
    else:
        y = tl.sum(acc, axis=0) / pixels
    tl.store(out + n * out_n + channel, settled(act.fn(y, act.a, act.b), grids, out.dtype.element_ty), c_mask)
# fmt: on
