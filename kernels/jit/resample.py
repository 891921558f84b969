# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Images read at other rows and columns; see `kernels/resample.py`."""

from __future__ import annotations

import triton
import triton.language as tl

from optgraph.kernels.jit.addressing import aligned
from optgraph.kernels.jit.dependence import await_launches


@triton.jit
def _position(table, i, tap, size, TAPS: tl.constexpr):
    """Where tap number `tap` of position `i` is."""
    if table is None:
        found = i
    else:
        found = tl.load(table + i * TAPS + tap).to(tl.int32)
        found = tl.minimum(tl.maximum(found, 0), size - 1)
    return found


@triton.jit
def _weight(table, i, tap, size, TAPS: tl.constexpr):
    """How much it counts; `size`: positions of the output."""
    if TAPS == 1:  # noqa: SIM108
        weight = tl.full(i.shape, 1.0, tl.float32)
    else:
        weight = tl.load(table + (size + i) * TAPS + tap)
    return weight


# fmt: off
@triton.jit
def resample(
    x, out, rows, columns, image, to, pixels, channels,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STRIDE_C: tl.constexpr, OUT_C: tl.constexpr,
    ALIGN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    pixel = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)  # [BLOCK_M]
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)  # [BLOCK_N]
    mask = (pixel < pixels)[:, None] & (channel < aligned(channels, ALIGN))[None, :]  # [BLOCK_M, BLOCK_N]
    row = pixel // to.width
    n, h, w = (row // to.height).to(tl.int64), row % to.height, pixel % to.width
    x += n[:, None] * aligned(image.stride_n, ALIGN) + (channel * STRIDE_C)[None, :]
    await_launches()
    if ROWS * COLUMNS == 1:
        i = _position(rows, h, 0, image.height, 1).to(tl.int64) * aligned(image.stride_h, ALIGN)
        j = _position(columns, w, 0, image.width, 1).to(tl.int64) * aligned(image.stride_w, ALIGN)
        y = tl.load(x + (i + j)[:, None], mask, other=0.0)
    else:
        y = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for s in range(ROWS):
            i = _position(rows, h, s, image.height, ROWS).to(tl.int64) * aligned(image.stride_h, ALIGN)
            down = _weight(rows, h, s, to.height, ROWS)
            for t in range(COLUMNS):
                j = _position(columns, w, t, image.width, COLUMNS).to(tl.int64) * aligned(image.stride_w, ALIGN)
                weight = down * _weight(columns, w, t, to.width, COLUMNS)
                y += tl.load(x + (i + j)[:, None], mask, other=0.0).to(tl.float32) * weight[:, None]
    to_pixel = n * aligned(to.stride_n, ALIGN)
    to_pixel += h.to(tl.int64) * aligned(to.stride_h, ALIGN) + w.to(tl.int64) * aligned(to.stride_w, ALIGN)
    tl.store(out + to_pixel[:, None] + (channel * OUT_C)[None, :], y.to(out.dtype.element_ty), mask)
# fmt: on
