"""Images read at places between their pixels."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from optgraph.ops.standard.form import Form, Function, OutsideTorchError

# ONNX's mode -> torch's; opset 16 called two of them as torch does.
_MODES = {"linear": "bilinear", "cubic": "bicubic"}


def grid_sample(form: Form, x: Tensor, grid: Tensor) -> Tensor:
    """grid: for each pixel of the output where it is in x, from -1 to 1 along each axis, the last axis first."""
    mode = form.text("mode", "bilinear")
    mode = _MODES.get(mode, mode)
    if x.ndim not in (4, 5) or (x.ndim == 5 and mode == "bicubic"):
        raise OutsideTorchError(f"{mode} samples of a tensor of rank {x.ndim}")
    padding, corners = form.text("padding_mode", "zeros"), bool(form.integer("align_corners", 0))
    return F.grid_sample(x, grid.to(x.dtype), mode, padding, corners)


def affine_grid(form: Form, theta: Tensor, size: Tensor) -> Tensor:
    return F.affine_grid(theta, size.tolist(), bool(form.integer("align_corners", 0)))


FUNCTIONS: dict[str, Function] = {"AffineGrid": affine_grid, "GridSample": grid_sample}
