"""Tiles of the bottleneck kernel, and whether it is worth launching: pure functions, testable with no GPU."""

from __future__ import annotations

from optgraph.kernels.tiles import MAX_NUMEL, Tile, cdiv, ceil_pow2

MAX_CHANNELS = 256  # of each half of z that a tile holds on chip

# What a prediction assumes: an H100 SXM (132 SMs) at 70 % of its dense fp16 peak and 90 % of its bandwidth.
_SMS = 132
_FLOPS = 0.7 * 989e12
_BANDWIDTH = 0.9 * 3.35e12


def pieces(channels: int) -> tuple[int, int]:
    """Two powers of two, or one and 0, that cover `channels` with little waste: 192 is 128 + 64, and not 256."""
    whole = max(16, ceil_pow2(channels))
    first = whole // 2
    second = max(16, ceil_pow2(channels - first)) if channels > first else 0
    return (first, second) if first >= 16 and 0 < second < first else (whole, 0)


def bottleneck_tile(m: int, hidden: int, columns: int, k: int, taps: int, itemsize: int, target: str) -> Tile:
    """The tile of m output pixels, `hidden` channels between the convolutions and `columns` behind them.

    block_k walks the k input channels of each of the `taps`, block_n the columns; all of `hidden` is in every tile.
    """
    if target == "interpret":
        block_k, block_n = min(256, max(16, ceil_pow2(k))), min(512, max(16, ceil_pow2(columns)))
        widest = max(block_k, block_n, *pieces(hidden))
        return Tile(min(2048, MAX_NUMEL // widest, max(16, ceil_pow2(m))), block_n, block_k)
    if itemsize > 2:
        return Tile(32, 32, 16, 8, 2)
    block_k = min(64, max(16, ceil_pow2(k)))
    block_n = min(64, max(16, ceil_pow2(columns)))
    # The same registers a thread; the bigger block reads the weights half as often, the smaller one balances better.
    block_m = _block_m(m)
    return Tile(block_m, block_n, block_k, block_m // 16, 2)


def _block_m(m: int) -> int:
    """64 or 128 pixels a block: what gives the busiest SM fewer of them."""
    return min((128, 64), key=lambda block: cdiv(cdiv(m, block), _SMS) * block)
