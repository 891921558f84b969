"""The scratch memory of split-K launches (see `jit/split_k.py`)."""

from __future__ import annotations

from dataclasses import replace

import torch

from optgraph.kernels.frame.tile import Tile

MAX_TILES = 1024  # counters at its start, an int32 each


def unsplit_beyond(tile: Tile, tiles: int) -> Tile:
    """`tile`, whole where there are more output tiles than counters. Tiles are chosen for a planned batch: a launch of
    a far greater one may have so many, and then no SM is idle without a split."""
    return tile if tiles <= MAX_TILES else replace(tile, splits=1)


def workspace_bytes(tiles: int, splits: int, block_m: int, block_n: int) -> int:
    """What a launch of `tiles` output tiles needs; 0 if nothing is split. Raises ValueError for more than have a
    counter (see `unsplit_beyond`)."""
    if splits > 1 and tiles > MAX_TILES:
        raise ValueError(f"{tiles} output tiles are split, and there are {MAX_TILES} counters")
    return 4 * (MAX_TILES + tiles * splits * block_m * block_n) if splits > 1 else 0


def unbound(workspace: int) -> torch.Tensor | None:
    """The `workspace` argument of a launch that has not got its bytes yet; None if it needs none."""
    return torch.empty(0, dtype=torch.float32) if workspace else None
