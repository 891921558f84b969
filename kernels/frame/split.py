"""The scratch memory of split-K launches (see `jit/split_k.py`)."""

from __future__ import annotations

import torch

MAX_TILES = 1024  # counters at its start, an int32 each


def workspace_bytes(tiles: int, splits: int, block_m: int, block_n: int) -> int:
    """What a launch of `tiles` output tiles needs; 0 if nothing is split."""
    return 4 * (MAX_TILES + tiles * splits * block_m * block_n) if splits > 1 else 0


def unbound(workspace: int) -> torch.Tensor | None:
    """The `workspace` argument of a launch that has not got its bytes yet; None if it needs none."""
    return torch.empty(0, dtype=torch.float32) if workspace else None
