"""What launchers share: reading strides off NHWC tensors and refusing what a kernel cannot address.

Inputs may have any strides. Outputs and residuals have "dense pixels": channel stride 1 and one row stride R between
neighbouring pixels (stride_w = R, stride_h = W*R, stride_n = H*W*R), so pixel m of N*H*W begins at m*R. R >= C: the
tensor may be a channel slice of a wider buffer.
"""

from __future__ import annotations

import torch

from optgraph.ir.values import Window


def strides4(x: torch.Tensor) -> tuple[int, int, int, int]:
    """Strides of [N, H, W, C], 1 where a dimension of one element makes the channel stride meaningless."""
    if x.dim() != 4:
        raise ValueError(f"expected a tensor [N, H, W, C], got shape {tuple(x.shape)}")
    n, h, w, c = x.stride()
    return n, h, w, c if x.shape[3] > 1 else 1


def row_stride(t: torch.Tensor, name: str) -> int:
    """The distance R between neighbouring pixels of a dense-pixel tensor [N, H, W, C]."""
    stride_n, stride_h, stride_w, stride_c = strides4(t)
    n, h, w, c = t.shape
    # The first dimension of more than one element, innermost first, tells R; the others must agree with it.
    expected = [(w, stride_w, 1), (h, stride_h, w), (n, stride_n, h * w)]
    measured = [stride // pixels for size, stride, pixels in expected if size > 1]
    row = measured[0] if measured else c
    dense = all(stride == row * pixels for size, stride, pixels in expected if size > 1)
    if stride_c != 1 or row < c or not dense:
        raise ValueError(f"{name} needs channel stride 1 and dense pixels, got {tuple(t.shape)} strides {t.stride()}")
    return row


def flat_pixels(x: torch.Tensor) -> bool:
    """Whether pixel m of N*H*W begins at m * stride_w: then a kernel needs no division to find it."""
    n, h, w, _ = x.shape
    stride_n, stride_h, stride_w, _ = strides4(x)
    return (h == 1 or stride_h == w * stride_w) and (n == 1 or stride_n == h * w * stride_w)


def check_shape(t: torch.Tensor, shape: tuple[int, ...], name: str) -> None:
    if tuple(t.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(t.shape)}, expected {shape}")


def check_contiguous(t: torch.Tensor, shape: tuple[int, ...], name: str) -> None:
    """For weights, which `pack` lays out."""
    check_shape(t, shape, name)
    if not t.is_contiguous():
        raise ValueError(f"{name} is not contiguous: strides {t.stride()}")


def check_vector(t: torch.Tensor | None, channels: int, name: str) -> None:
    """For bias, scale and shift: absent, or contiguous float32 [channels]."""
    if t is None:
        return
    check_contiguous(t, (channels,), name)
    if t.dtype != torch.float32:
        raise ValueError(f"{name} is {t.dtype}, expected float32")


def strides2(t: torch.Tensor, name: str) -> tuple[int, int]:
    """Strides of [M, N], as if contiguous where an axis of one element makes them meaningless."""
    if t.dim() != 2:
        raise ValueError(f"{name} has shape {tuple(t.shape)}, expected 2 dimensions")
    row, column = t.stride()
    return row if t.shape[0] > 1 else t.shape[1], column if t.shape[1] > 1 else 1


def row_stride2(t: torch.Tensor, name: str) -> int:
    """The distance between the rows of [M, N], whose last axis must be contiguous."""
    row, column = strides2(t, name)
    if column != 1 or (t.shape[0] > 1 and row < t.shape[1]):
        raise ValueError(f"{name} needs a contiguous last axis, got {tuple(t.shape)} strides {t.stride()}")
    return row


def check_window(x: torch.Tensor, out: torch.Tensor, window: Window, columns: int) -> tuple[int, int]:
    """Height and width of what `window` makes of x [N, H, W, C]. Raises ValueError unless that is out's, of so many
    channels."""
    strides4(x)
    size = [_length(x.shape[1 + axis], window, axis) for axis in (0, 1)]
    check_shape(out, (x.shape[0], *size, columns), "out")
    return size[0], size[1]


def _length(size: int, window: Window, axis: int) -> int:
    """Length of one spatial axis after a convolution or a pool (rounding down)."""
    reach = window.dilation[axis] * (window.kernel[axis] - 1) + 1
    return (size + window.pads[axis] + window.pads[axis + 2] - reach) // window.stride[axis] + 1
