"""What slides a window over any number of axes, and pools of whole images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from optgraph.ops.standard.form import Form, Function, OutsideTorchError


@dataclass(frozen=True)
class Slide:
    """A window along one axis: `count` places, of `kernel` elements each; `before` and `after` are the padding.

    beyond: what the last window lacks after the padding.
    """

    kernel: int
    stride: int
    dilation: int
    before: int
    after: int
    count: int
    beyond: int


def slides(form: Form, sizes: list[int], kernel: list[int]) -> list[Slide]:
    """The window of a convolution or pool along each axis of an image of `sizes`."""
    rank = len(sizes)
    strides, dilations = form.get("strides") or [1] * rank, form.get("dilations") or [1] * rank
    pads = form.get("pads") or [0] * (2 * rank)
    auto = form.text("auto_pad", "NOTSET")
    found = []
    for i, (size, taps, stride, dilation) in enumerate(zip(sizes, kernel, strides, dilations, strict=True)):
        reach = (taps - 1) * dilation + 1
        before, after = (0, 0) if auto == "VALID" else (pads[i], pads[i + rank])
        if auto.startswith("SAME"):
            total = max((math.ceil(size / stride) - 1) * stride + reach - size, 0)
            before, after = total // 2, total - total // 2
            if auto == "SAME_LOWER":
                before, after = after, before
        places = (size + before + after - reach) / stride
        count = int(places) + 1  # towards 0, as ONNX Runtime does where less than a stride is missing
        if form.integer("ceil_mode", 0):
            count = math.ceil(places) + 1
            count -= (count - 1) * stride >= size + before  # a window starts inside, or in the padding before it
        beyond = max((count - 1) * stride + reach - size - before - after, 0)
        found.append(Slide(taps, stride, dilation, before, after, count, beyond))
    return found


def _padded(x: Tensor, window: list[Slide], value: float, beyond: bool) -> Tensor:
    margins = [m for s in reversed(window) for m in (s.before, s.after + s.beyond * beyond)]
    return F.pad(x, margins, value=value)


def _windows(x: Tensor, axis: int, slide: Slide) -> Tensor:
    """The windows along one axis of a padded image: [..., count, kernel, ...] in place of it."""
    starts = torch.arange(slide.count, device=x.device) * slide.stride
    index = starts[:, None] + torch.arange(slide.kernel, device=x.device) * slide.dilation
    shape = (*x.shape[:axis], slide.count, slide.kernel, *x.shape[axis + 1 :])
    return x.index_select(axis, index.reshape(-1)).reshape(shape)


def _reduced(x: Tensor, window: list[Slide], reduction: Callable[[Tensor, int], Tensor]) -> Tensor:
    """A padded image with each window reduced, axis by axis."""
    for axis, slide in enumerate(window, start=2):
        x = reduction(_windows(x, axis, slide), axis + 1)
    return x


def _total(x: Tensor, axis: int) -> Tensor:
    return x.sum(axis)


def average_pool(form: Form, x: Tensor) -> Tensor:
    """Over the elements inside the image, and those of `pads` with count_include_pad; never those of ceil_mode.

    ONNX Runtime counts all of a window that does not fit, until opset 19.
    """
    window = slides(form, list(x.shape[2:]), form.get("kernel_shape"))
    inside = torch.ones_like(x[:1, :1])
    if form.integer("count_include_pad", 0):
        whole = form.opset < 19 and not form.integer("ceil_mode", 0)
        inside = _padded(inside, window, 1.0, beyond=whole)
        if not whole:
            inside = F.pad(inside, [m for s in reversed(window) for m in (0, s.beyond)])
    else:
        inside = _padded(inside, window, 0.0, beyond=True)
    total = _reduced(_padded(x, window, 0.0, beyond=True), window, _total)
    return total / _reduced(inside, window, _total)


def lp_pool(form: Form, x: Tensor) -> Tensor:
    p = form.integer("p", 2)
    window = slides(form, list(x.shape[2:]), form.get("kernel_shape"))
    return _reduced(_padded(x.abs() ** p, window, 0.0, beyond=True), window, _total) ** (1 / p)


def max_pool(form: Form, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
    """Beside the largest element of each window, its index in the flat input: the first of equal ones."""
    sizes = list(x.shape[2:])
    window = slides(form, sizes, form.get("kernel_shape"))
    lowest = -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
    padded = _padded(x, window, lowest, beyond=True)
    if form.outputs == 1:
        return _reduced(padded, window, torch.amax)
    flat = torch.arange(x.numel(), device=x.device)
    if form.integer("storage_order", 0):  # images column by column
        strides = [math.prod(sizes[:i]) for i in range(len(sizes))]
        places = [
            torch.arange(s, device=x.device).reshape([-1 if a == i else 1 for a in range(len(sizes))])
            for i, s in enumerate(sizes)
        ]
        inner = sum(
            (p * s for p, s in zip(places, strides, strict=True)),
            torch.zeros(sizes, dtype=torch.int64, device=x.device),
        )
        images = torch.arange(math.prod(x.shape[:2]), device=x.device) * math.prod(sizes)
        flat = (images.reshape(-1, 1) + inner.reshape(1, -1)).reshape(-1)
    index = _padded(flat.reshape(x.shape), window, 0, beyond=True)
    # The last axis first: of equal elements, it is then the first in the order of the input that is taken.
    for axis, slide in reversed(list(enumerate(window, start=2))):
        values, indices = _windows(padded, axis, slide), _windows(index, axis, slide)
        best = values.amax(axis + 1, keepdim=True)
        first = ((values == best) | values.isnan()).to(torch.uint8).cumsum(axis + 1) == 1
        taken = first.to(torch.uint8).argmax(axis + 1, keepdim=True)
        padded, index = best.squeeze(axis + 1), indices.gather(axis + 1, taken).squeeze(axis + 1)
    return padded, index


def _over_image(reduction: Callable[..., Tensor]) -> Function:
    return lambda form, x: reduction(x, list(range(2, x.ndim)), keepdim=True)


def global_lp_pool(form: Form, x: Tensor) -> Tensor:
    p = form.integer("p", 2)
    return (x.abs() ** p).sum(list(range(2, x.ndim)), keepdim=True) ** (1 / p)


def convolve(form: Form, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    """Of one to three axes, as torch has it."""
    if not 3 <= x.ndim <= 5:
        raise OutsideTorchError(f"a convolution over {x.ndim - 2} axes")
    window = slides(form, list(x.shape[2:]), list(w.shape[2:]))
    function = (F.conv1d, F.conv2d, F.conv3d)[x.ndim - 3]
    strides, dilations = [s.stride for s in window], [s.dilation for s in window]
    return function(_padded(x, window, 0.0, beyond=False), w, bias, strides, 0, dilations, form.integer("group", 1))


FUNCTIONS: dict[str, Function] = {
    "AveragePool": average_pool,
    "Conv": convolve,
    "GlobalAveragePool": _over_image(torch.mean),
    "GlobalLpPool": global_lp_pool,
    "GlobalMaxPool": _over_image(torch.amax),
    "LpPool": lp_pool,
    "MaxPool": max_pool,
}
