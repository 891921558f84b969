"""Tiles of the bottleneck kernel, and whether it is worth launching: pure functions, testable with no GPU."""

from __future__ import annotations

from optgraph.base.devices import H100
from optgraph.kernels.frame.choice import MAX_NUMEL, Tile, cdiv, ceil_pow2

MAX_CHANNELS = 256  # of either half of the 1x1's input, which a tile holds whole
MIN_INPUT_CHANNELS = 16  # the least depth of a tl.dot: an RGB stem would mostly multiply zeros

# What a prediction assumes: an H100 at 70 % of its dense fp16 peak and 90 % of its bandwidth.
_SMS = H100.sms
_FLOPS = 0.7 * H100.flops["fp16"]
_BANDWIDTH = 0.9 * H100.memory


def pieces(channels: int) -> tuple[int, int]:
    """Two powers of two, or one and 0, that cover `channels` with little waste: 192 is 128 + 64, and not 256."""
    whole = max(16, ceil_pow2(channels))
    second = 16
    while second < whole // 4 and whole // 2 + second < channels:
        second *= 2
    return (whole // 2, second) if whole >= 64 and whole // 2 + second >= channels else (whole, 0)


def bottleneck_tile(m: int, k: int, hidden: int, rest: int, columns: int, itemsize: int, target: str) -> Tile:
    """The tile for m output pixels, k input channels, `hidden` and `rest` between the convolutions, `columns` out.

    block_k walks the input channels of each tap, block_n the columns; all of `hidden` and `rest` is in every tile.
    """
    if target == "interpret":
        block_k, block_n = min(256, max(16, ceil_pow2(k))), min(512, max(16, ceil_pow2(columns)))
        widest = max(block_k, block_n, *pieces(hidden), *pieces(rest))
        return Tile(min(2048, MAX_NUMEL // widest, max(16, ceil_pow2(m))), block_n, block_k)
    if itemsize > 2:
        return Tile(32, 32, 16, 8, 2)  # it runs, and nothing is gained: see `pays`
    block_k = min(64, max(16, ceil_pow2(k)))
    much = hidden + rest > 384
    # Both take the same registers a thread. Of the small block two fit on an SM; the big one, for which shared memory
    # must be that of an A100 or H100, reads the weights half as often.
    if target in ("sm_86", "sm_89") or _block_m(m) == 64:
        return Tile(64, 32, block_k, 4, 2 if much else 3)
    return Tile(128, 32 if much else 64, block_k, 8, 2 if much else 3)


def _block_m(m: int) -> int:
    """64 or 128 pixels a block: what gives the busiest SM fewer of them."""
    return min((128, 64), key=lambda block: cdiv(cdiv(m, block), _SMS) * block)


def pays(
    pixels: int,
    channels: int,
    hidden: int,
    rest: int,
    columns: int,
    *,
    taps: int,
    read: int,
    residual: bool,
    itemsize: int,
) -> bool:
    """Whether one launch is predicted to be faster than a convolution and a 1x1, each by itself.

    The convolution makes `hidden` values for each of `pixels` output pixels out of taps * channels values, and reads
    each of its input's once: `read` for an output pixel. The 1x1 reads `hidden` and `rest` values, makes `columns`, and
    adds a residual or not.

    One launch saves writing and reading the hidden values, 2 * pixels * hidden * itemsize bytes, and its bytes hide
    behind more arithmetic. It loses where its few blocks, of all columns each, leave SMs idle. Predicted, as no GPU has
    measured it: a launch takes the longer of its bytes and its FLOPs at the rates above, and the one launch longer by
    the share of idle SMs. It must have a block for every SM. In 32 bits the tile is too small to win, and where 16
    bytes do not divide the channels it spills.
    """
    if itemsize > 2 or cdiv(pixels, 64) < _SMS or any(size % 8 for size in (channels, hidden, rest, columns)):
        return False

    def seconds(values: int, products: int) -> float:
        """What moving and multiplying so much for every pixel takes."""
        return max(pixels * values * itemsize / _BANDWIDTH, 2 * pixels * products / _FLOPS)

    first, second = taps * channels * hidden, (hidden + rest) * columns
    moved = rest + columns * (2 if residual else 1)
    block_m = _block_m(pixels)
    busy = pixels / (cdiv(cdiv(pixels, block_m), _SMS) * block_m * _SMS)
    apart = seconds(read + hidden, first) + seconds(hidden + moved, second)
    return seconds(read + moved, first + second) / busy < apart
