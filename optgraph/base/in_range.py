"""Whether a folded constant is still itself in the type that it is stored in.

Constants are folded in float64, and a product may leave a type that both factors lie in: 3e4 · 3 is infinite in
float16, 1e-5 · 1e-5 is 0.
"""

from __future__ import annotations

import numpy as np

# Relative L2 of a channel. Rounding makes 5e-4 in float16, 4e-3 in bfloat16: what is off by more lies where the type
# has only a few bits left.
_LOST = 1e-2


def stored(exact: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """`exact` in `dtype`, infinite where it is too large for it."""
    with np.errstate(over="ignore", under="ignore"):
        return exact.astype(dtype, copy=False)


def overflow(exact: np.ndarray, dtype: np.dtype) -> str | None:
    """Why a bias or shift of these numbers cannot be kept in `dtype`; None if it can. Too small a one is no loss."""
    if not np.isfinite(exact).all():
        return "a folded constant is not finite"
    if not np.isfinite(stored(exact, dtype)).all():
        return f"a folded constant is not finite in {dtype}"
    return None


def out_of_range(exact: np.ndarray, dtype: np.dtype) -> str | None:
    """Why a weight or scale of these numbers, a channel a row, cannot be kept in `dtype`; None if it can."""
    reason = overflow(exact, dtype)
    if reason is not None or exact.dtype == dtype:
        return reason
    rows = exact.reshape(len(exact), -1).astype(np.float64)
    lost = np.linalg.norm(rows - stored(exact, dtype).reshape(rows.shape), axis=1)
    if (lost > _LOST * np.linalg.norm(rows, axis=1)).any():
        return f"a folded constant is too small for {dtype}"
    return None
