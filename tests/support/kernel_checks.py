"""What kernel tests share: outputs poisoned with NaN inside wider buffers, and the comparison with float64."""

from __future__ import annotations

import math

import torch

DTYPES = (torch.float32, torch.float16)


def poisoned(*shape: int, dtype: torch.dtype = torch.float32, before: int = 8, after: int = 3) -> torch.Tensor:
    """A channel slice of a wider buffer, all NaN."""
    wide = torch.full((*shape[:-1], before + shape[-1] + after), math.nan, dtype=dtype)
    return wide[..., before : before + shape[-1]]


def sliced(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Random numbers in a channel slice of a wider buffer."""
    return torch.randn(*shape[:-1], shape[-1] + 5).to(dtype)[..., 2 : 2 + shape[-1]]


def image(*shape: int, dtype: torch.dtype = torch.float32, nchw: bool = False) -> torch.Tensor:
    """Random [N, H, W, C], in memory contiguous or NCHW."""
    n, h, w, c = shape
    return torch.randn(n, c, h, w).to(dtype).permute(0, 2, 3, 1) if nchw else torch.randn(shape).to(dtype)


def outside(slice_: torch.Tensor) -> torch.Tensor:
    """What surrounds the slice in its buffer."""
    base = slice_._base
    assert base is not None
    first = slice_.storage_offset()
    return torch.cat([base[..., :first], base[..., first + slice_.shape[-1] :]], dim=-1)


def check(out: torch.Tensor, expected: torch.Tensor, length: int = 1) -> None:
    """Relative L2 of a `poisoned` output, `length` being the number of terms in its sums; NaN never passes."""
    assert expected.dtype == torch.float64
    error = ((out.double() - expected).norm() / expected.norm()).item()
    bound = 2e-3 if out.dtype == torch.float16 else 1e-6 * math.sqrt(length)
    assert error < bound, f"relative error {error:.2e}, bound {bound:.2e}"
    assert outside(out).isnan().all(), "wrote outside its channel slice"
