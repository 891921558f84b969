"""Cubins that no compiler made, for tests of what carries and launches them."""

from __future__ import annotations

from typing import Any

from optgraph.cubins import Cubin, TensorMap


def sample(**changes: Any) -> Cubin:
    """A cubin with one parameter of each kind."""
    fields: dict[str, Any] = {
        "key": "0123456789abcdef" * 4,
        "kernel": "pointwise",
        "target": "sm_90",
        "entry": "_pointwise",
        "parameters": (TensorMap((64, 32), 3, 6), "pointer", "i32", "i64", "fp32"),
        "num_warps": 8,
        "shared_bytes": 98_304,
        "registers": 168,
        "spill_bytes": 0,
        "mma": False,
        "wgmma": True,
        "tma": True,
        "code": b"\x7fELF and so on",
    }
    return Cubin(**{**fields, **changes})
