"""Outputs of one product that are side by side in its columns: segments, as kernels are told of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from optgraph.ir.values import Act
from optgraph.kernels.frame.operands import row_stride

MAX_SEGMENTS = 4


def segments_of(outs: Sequence[torch.Tensor], acts: Sequence[Act]) -> dict[str, Any]:
    """Outputs, their columns and row strides, and a bit for each that has the activation."""
    absent, rows = MAX_SEGMENTS - len(outs), [row_stride(out, f"outs[{i}]") for i, out in enumerate(outs)]
    return {
        "outs": (*outs, *(outs[0],) * absent),
        "sizes": (*(out.shape[-1] for out in outs), *(0,) * absent),
        "out_rows": (*rows, *(0,) * absent),
        "act_bits": sum(1 << i for i, act in enumerate(acts) if act),
    }
