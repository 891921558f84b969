"""Single layers on a GPU: each distinct convolution of a network, as our kernel and as cuDNN computes it.

cuDNN gets its weights as it likes them, channels last, and its input with the prologue (a ReLU before a separable
convolution) applied beforehand, for free. Bias and ReLU are in its convolution where it has that fusion, and so is a
residual; else they are torch operators, as in a network. A separable convolution is a depthwise and a pointwise one, a
bottleneck a convolution, a concatenation where it reads another branch too, and a pointwise one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from optgraph.ir.values import IDENTITY, RELU, Window
from optgraph.kernels.frame.ends import Epilogue, Prologue
from optgraph.kernels.frame.sample import Operands

Peer = Callable[[], list[torch.Tensor]]  # computes the results, N×H×W×C

_POINT = Window((1, 1))


def cudnn(operands: Operands) -> Peer | None:
    """The layer through cuDNN; None if it is no convolution."""
    t = operands.arguments
    if "weight" not in t or t["x"].dim() != 4:
        return None
    torch.backends.cudnn.benchmark = True  # the fastest algorithm, not the one that cuDNN guesses
    before, after, mid = t.get("before", Prologue()), t.get("after", Epilogue()), t.get("mid", IDENTITY)
    x = _images(before.reference(t["x"]).to(t["weight"].dtype))
    match operands.kernel.name:
        case "pointwise":
            widths = [out.shape[-1] for out in t["outs"]]
            biases = [None] * len(widths) if after.bias is None else list(after.bias.split(widths))
            ends = [Epilogue(b, act) for b, act in zip(biases, t["acts"], strict=True)] if t.get("acts") else [after]
            window = Window((1, 1), t.get("stride", (1, 1)))
            weights = t["weight"].split(widths, 1)
            calls = [_convolution(_pointwise(w), window, end) for w, end in zip(weights, ends, strict=True)]
            return lambda: [_rows(call(x)) for call in calls]
        case "conv2d":
            convolve = _convolution(_window(t["weight"]), t["window"], after, t.get("groups", 1))
            return lambda: [_rows(convolve(x))]
        case "separable":
            kernel = _channels_last(t["depthwise"].permute(2, 0, 1)[:, None])
            middle = Epilogue(t["depthwise_bias"], mid, slope=t.get("mid_slope"))
            first = _convolution(kernel, t["window"], middle, len(kernel))
            second = _convolution(_pointwise(t["weight"]), _POINT, after)
            return lambda: [_rows(second(first(x)))]
        case "bottleneck":
            middle = Epilogue(t["conv_bias"], mid, slope=t.get("mid_slope"))
            first = _convolution(_window(t["conv_weight"]), t["window"], middle)
            second = _convolution(_pointwise(t["weight"]), _POINT, after)
            if t["rest"] is None:
                return lambda: [_rows(second(first(x)))]
            rest = _images(t["rest"])
            joined = (lambda: (rest, first(x))) if t["rest_first"] else (lambda: (first(x), rest))
            return lambda: [_rows(second(torch.cat(joined(), 1)))]
        case _:
            return None


def _convolution(
    weight: torch.Tensor, window: Window, after: Epilogue, groups: int = 1
) -> Callable[[torch.Tensor], torch.Tensor]:
    """A convolution of N×C×H×W images in as few calls as torch offers."""
    top, left, bottom, right = window.pads
    symmetric = (top, left) == (bottom, right)
    padding = (top, left) if symmetric else (0, 0)
    bias = None if after.bias is None else after.bias.to(weight.dtype)
    fused_bias = torch.zeros(len(weight), dtype=weight.dtype, device=weight.device) if bias is None else bias
    residual = None if after.residual is None else _images(after.residual)
    slope = None if after.slope is None else after.slope.to(weight.dtype)[:, None, None]
    geometry = (window.stride, padding, window.dilation, groups)

    def convolve(x: torch.Tensor) -> torch.Tensor:
        x = x if symmetric else F.pad(x, (left, right, top, bottom))
        if x.is_cuda and residual is None and after.act == RELU and not after.post:
            return torch.cudnn_convolution_relu(x, weight, fused_bias, *geometry)
        if x.is_cuda and residual is not None and not after.act and after.post == RELU:
            return torch.cudnn_convolution_add_relu(x, weight, residual, 1.0, fused_bias, *geometry)
        y = after.act.apply(F.conv2d(x, weight, bias, *geometry), slope)
        return after.post.apply(y if residual is None else y + residual, slope)

    return convolve


def _pointwise(packed: torch.Tensor) -> torch.Tensor:
    """ONNX's weight from `pointwise.pack`'s."""
    return _channels_last(packed.t()[:, :, None, None])


def _window(packed: torch.Tensor) -> torch.Tensor:
    """ONNX's weight from `conv2d.pack`'s."""
    return _channels_last(packed.permute(0, 4, 3, 1, 2).flatten(0, 1))


def _images(rows: torch.Tensor) -> torch.Tensor:
    """N×H×W×C as N×C×H×W, channels last in memory."""
    return _channels_last(rows.permute(0, 3, 1, 2))


def _rows(images: torch.Tensor) -> torch.Tensor:
    return images.permute(0, 2, 3, 1)


def _channels_last(t: torch.Tensor) -> torch.Tensor:
    return t.contiguous(memory_format=torch.channels_last)
