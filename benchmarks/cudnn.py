"""Single layers on a GPU: each distinct convolution of a network, as our kernel and as cuDNN computes it.

cuDNN gets its weights as it likes them, channels last, and its input with the prologue (a ReLU before a separable
convolution) applied beforehand, for free. Bias and ReLU are in its convolution where it has that fusion, and so is a
residual; else they are torch operators, as in a network. A separable convolution is a depthwise and a pointwise one, a
bottleneck a convolution, a concatenation where it reads another branch too, and a pointwise one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from optgraph.ir.values import IDENTITY, RELU, Act
from optgraph.kernels import conv2d, depthwise, pointwise
from optgraph.kernels.frame.launch import Launch
from optgraph.kernels.jit.epilogue import reference_prologue
from optgraph.tune.layers import Bind, Operands
from optgraph.tune.timing import Run

Peer = Callable[[], list[torch.Tensor]]  # computes the results, N×H×W×C


def cudnn(operands: Operands) -> Peer | None:
    """The layer through cuDNN; None if it is no convolution."""
    t, options = operands.tensors, dict(operands.layer.options)
    window = {key: options[key] for key in ("stride", "pads", "dilation") if key in options}
    mid = options.get("mid", IDENTITY)
    match operands.layer.name:
        case "pointwise":
            widths = [out.shape[-1] for out in t["outs"]]
            biases = [None] * len(widths) if t["bias"] is None else list(t["bias"].split(widths))
            x, last = _input(t, options), _last(t, options)
            parts = zip(t["weight"].split(widths, 1), biases, options["acts"], strict=True)
            calls = [partial(_convolution(_pointwise(w), b, **window, **last | {"act": act}), x) for w, b, act in parts]
            return lambda: [_rows(call()) for call in calls]
        case "conv2d":
            convolve = _convolution(
                _window(t["weight"]), t["bias"], groups=options["groups"], **window, **_last(t, options)
            )
            x = _input(t, options)
            return lambda: [_rows(convolve(x))]
        case "separable":
            kernel = _channels_last(t["depthwise"].permute(2, 0, 1)[:, None])
            first = _convolution(kernel, t["depthwise_bias"], groups=len(kernel), act=mid, **window)
            second = _convolution(_pointwise(t["weight"]), t["bias"], **_last(t, options))
            x = _input(t, options)
            return lambda: [_rows(second(first(x)))]
        case "bottleneck":
            first = _convolution(_window(t["conv_weight"]), t["conv_bias"], act=mid, **window)
            second = _convolution(_pointwise(t["weight"]), t["bias"], **_last(t, options))
            x, rest = _input(t, options), [_images(t["rest"])] if "rest" in t else []
            before, behind = (rest, []) if options["rest_first"] else ([], rest)
            return lambda: [_rows(second(torch.cat([*before, first(x), *behind], 1) if rest else first(x)))]
        case _:
            return None


def separate(operands: Operands, bind: Bind) -> Run | None:
    """What one launch fuses, as calls of our own kernels: a merged 1×1 segment by segment, a separable convolution or a
    bottleneck as its two. None if nothing is fused."""
    t, options = operands.tensors, dict(operands.layer.options)
    prologue = {key: t[key] for key in ("pre_scale", "pre_shift") if key in t}
    prologue |= {key: options[key] for key in ("pre_act",) if key in options}
    window = {key: options[key] for key in ("stride", "pads", "dilation") if key in options}
    precision = {key: options[key] for key in ("precision",) if key in options}
    match operands.layer.name:
        case "pointwise" if len(t["outs"]) > 1:
            columns = [out.shape[-1] for out in t["outs"]]
            weights = [w.contiguous() for w in t["weight"].split(columns, 1)]
            biases = [None] * len(columns) if t["bias"] is None else [b.contiguous() for b in t["bias"].split(columns)]
            common = {"stride": options["stride"]} | prologue | precision
            launches = [
                pointwise.pointwise(t["x"], w, b, [out], acts=[act], **common)
                for w, b, out, act in zip(weights, biases, t["outs"], options["acts"], strict=True)
            ]
        case "separable":
            middle = _empty(t, t["depthwise"].shape[-1])
            act = options.get("mid", IDENTITY)
            first = depthwise.depthwise(
                t["x"], t["depthwise"], t["depthwise_bias"], middle, act=act, **window, **prologue
            )
            launches = [first, _second(t, options, middle)]
        case "bottleneck":
            hidden = t["conv_weight"].shape[-1]
            joined = _empty(t, t["weight"].shape[0])
            rest_first = options["rest_first"]
            middle = joined[..., -hidden:] if rest_first else joined[..., :hidden]
            if "rest" in t:
                (joined[..., :-hidden] if rest_first else joined[..., hidden:]).copy_(t["rest"])
            act = options.get("mid", IDENTITY)
            first = conv2d.conv2d(
                t["x"], t["conv_weight"], t["conv_bias"], middle, act=act, **window, **prologue, **precision
            )
            launches = [first, _second(t, options, joined)]
        case _:
            return None
    calls = list(map(bind, launches))

    def run() -> None:
        for call in calls:
            call()

    return run


def _empty(t: dict[str, Any], channels: int) -> torch.Tensor:
    """A tensor as large as the output, of so many channels, in the type of the weights."""
    return torch.empty((*t["out"].shape[:-1], channels), dtype=t["weight"].dtype, device=t["out"].device)


def _second(t: dict[str, Any], options: dict[str, Any], x: torch.Tensor) -> Launch:
    """The 1×1 that ends a fused kernel, by itself."""
    ends = {key: options[key] for key in ("post", "precision") if key in options}
    ends |= {"residual": t["residual"]} if "residual" in t else {}
    return pointwise.pointwise(x, t["weight"], t["bias"], [t["out"]], acts=[options.get("act", IDENTITY)], **ends)


def _convolution(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    stride: tuple[int, int] = (1, 1),
    pads: Sequence[int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    act: Act = IDENTITY,
    residual: torch.Tensor | None = None,
    post: Act = IDENTITY,
) -> Callable[[torch.Tensor], torch.Tensor]:
    """A convolution of N×C×H×W images in as few calls as torch offers."""
    top, left, bottom, right = pads
    symmetric = (top, left) == (bottom, right)
    padding = (top, left) if symmetric else (0, 0)
    bias = None if bias is None else bias.to(weight.dtype)
    fused_bias = torch.zeros(len(weight), dtype=weight.dtype, device=weight.device) if bias is None else bias
    geometry = (stride, padding, dilation, groups)

    def convolve(x: torch.Tensor) -> torch.Tensor:
        x = x if symmetric else F.pad(x, (left, right, top, bottom))
        if x.is_cuda and residual is None and act == RELU and not post:
            return torch.cudnn_convolution_relu(x, weight, fused_bias, *geometry)
        if x.is_cuda and residual is not None and not act and post == RELU:
            return torch.cudnn_convolution_add_relu(x, weight, residual, 1.0, fused_bias, *geometry)
        y = act.apply(F.conv2d(x, weight, bias, *geometry))
        return post.apply(y if residual is None else y + residual)

    return convolve


def _input(t: dict[str, Any], options: dict[str, Any]) -> torch.Tensor:
    """The input after its prologue, in the type of the weights."""
    x = reference_prologue(t["x"], t.get("pre_scale"), t.get("pre_shift"), options.get("pre_act", IDENTITY))
    return _images(x.to(t["weight"].dtype))


def _last(t: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """What the last convolution ends with."""
    ends = {key: options[key] for key in ("act", "post") if key in options}
    return ends | ({"residual": _images(t["residual"])} if "residual" in t else {})


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
