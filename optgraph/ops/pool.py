"""Pooling over windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import onnx

from optgraph.base.errors import FIX_INPUT, ModelError
from optgraph.ir.op import Exporter, Handlers, Importer, Inputs, Node, Outputs, image
from optgraph.ir.quant import Quant
from optgraph.ir.values import Pads, Shape, Value, Window
from optgraph.kernels.frame.ends import Prologue
from optgraph.kernels.pool import POOL
from optgraph.ops import computing, exporting
from optgraph.ops.importing import KeepError, require_floating
from optgraph.ops.lowered import after
from optgraph.ops.movement import Pad
from optgraph.ops.windowed import Windowed, read_window
from optgraph.plan.lowering import Lowering

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Pool(Windowed):
    """Max or average pooling; `mode` is 'max' or 'average'. Average divides by the pixels inside the image,
    or by the whole window with count_include_pad."""

    slots = ("x", "b", "residual", "slope")
    prologue_field = "pre_act"
    writes_channels = True
    takes_residual = 3
    integers = True
    mode: str
    count_include_pad: bool = False

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        return self.infer_image(inputs, image(inputs).shape[1])

    @staticmethod
    def from_max_pool(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        require_floating(importer, node.input[0])
        if importer.reads(node.output[1:]):  # the indices
            raise KeepError
        window = read_window(importer, node, attrs, attrs["kernel_shape"])
        window["pads"], _ = _whole_windows(importer.shape(node.input[0]), window, attrs)
        importer.add(Pool(mode="max", **window), node.input)

    @staticmethod
    def from_average_pool(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        window = read_window(importer, node, attrs, attrs["kernel_shape"])
        pads, x = window["pads"], node.input[0]
        window["pads"], extended = _whole_windows(importer.shape(x), window, attrs)
        counted = bool(attrs.get("count_include_pad", 0)) and any(window["pads"])
        if counted and extended and (importer.opset >= 19 or attrs.get("ceil_mode", 0)):
            # What the last window lacks does not count, but `pads` do: they become part of the image.
            window["pads"] = tuple(after - before for after, before in zip(window["pads"], pads, strict=True))
            x = importer.add(Pad(pads=(0, 0, *pads[:2], 0, 0, *pads[2:])), [x], [""])
            counted = False
        importer.add(Pool(mode="average", **window, count_include_pad=counted), [x])

    handlers: ClassVar[Handlers] = {"MaxPool": from_max_pool, "AveragePool": from_average_pool}

    @property
    def bare(self) -> bool:
        """Whether there is nothing before or after it, but perhaps a bias or a residual."""
        return not (self.pre_act or self.act or self.post or self.quants)

    def on_grid(self, grids: Sequence[Quant | None], output: int = 0) -> Quant | None:
        alone = self.mode == "max" and self.bare and len(grids) == 1
        return grids[0] if alone else super().on_grid(grids, output)

    def export(self, to: Exporter, node: Node) -> None:
        y = emit_max_pool(to, node, self) if self.mode == "max" else _emit_average_pool(to, node, self)
        if node.get("b"):
            y = to.emit("Add", [y, exporting.column(to, node.get("b"), 4)])
        self.export_epilogue(to, node, y)

    def least_opset(self, source: int) -> int:
        return 19 if self.mode == "average" and self.dilation != (1, 1) else 0

    def compute(self, inputs: Inputs) -> Outputs:
        x, b, residual, slope = self.per_slot(inputs)
        x = self.pre_act.apply(x)
        y = max_pool(x, self.window) if self.mode == "max" else average_pool(x, self.window, self.count_include_pad)
        return self.compute_epilogue(y if b is None else y + computing.channels(b, y), residual, slope)

    def lower(self, context: Lowering, node: Node) -> None:
        context.call(
            POOL,
            node,
            x=context.read(node.inputs[0]).nhwc,
            kind=self.mode,
            window=self.window,
            count_include_pad=self.count_include_pad,
            before=Prologue(act=self.pre_act, quant=context.quant(node.inputs[0])),
            after=after(context, node, self),
            out=context.write(node.output).nhwc,
        )


# ---- ONNX in


def _whole_windows(x: Shape, window: dict[str, Any], attrs: dict[str, Any]) -> tuple[Pads, bool]:
    """Pads with the rows and columns that the last window lacks, and whether there are any.

    ceil_mode adds them (a window must still start inside). Without it, ONNX Runtime and ONNX's inference divide towards
    0: one window is left if less than a stride is missing for it.
    """
    pads = list(window["pads"])
    for i in range(2):
        size = x[2 + i]
        stride, reach = window["stride"][i], (window["kernel"][i] - 1) * window["dilation"][i] + 1
        if isinstance(size, str):
            if not attrs.get("ceil_mode", 0):
                continue
            raise ModelError(f"ceil_mode needs a fixed size, not '{size}'", FIX_INPUT, "ceil_mode")
        padded = size + pads[i] + pads[i + 2]
        if attrs.get("ceil_mode", 0):
            count = math.ceil((padded - reach) / stride) + 1
            count -= (count - 1) * stride >= size + pads[i]
        elif 0 < reach - padded < stride:
            count = 1
        else:
            continue
        pads[i + 2] += max((count - 1) * stride + reach - padded, 0)
    extended = (pads[0], pads[1], pads[2], pads[3])
    return extended, extended != window["pads"]


# ---- ONNX out


def emit_max_pool(to: Exporter, node: Node, op: Windowed) -> str:
    """A MaxPool over the windows of `op` of the input `x` of `node`."""
    x, attrs = _padded_input(to, node, op, -math.inf)
    return to.emit("MaxPool", [x], **attrs)


def _emit_average_pool(to: Exporter, node: Node, op: Pool) -> str:
    if op.count_include_pad:
        x, attrs = _padded_input(to, node, op, 0.0)
    else:
        x, attrs = exporting.scaled(to, node.get("x"), "", "", op.pre_act), op.window_attributes()
    if op.dilation == (1, 1):
        del attrs["dilations"]  # which opset 19 brought
    return to.emit("AveragePool", [x], count_include_pad=int(op.count_include_pad), **attrs)


def _padded_input(to: Exporter, node: Node, op: Windowed, fill: float) -> tuple[str, dict[str, Any]]:
    """The input of a pool, and its window."""
    x, attrs = exporting.scaled(to, node.get("x"), "", "", op.pre_act), op.window_attributes()
    if any(pad >= size for pad, size in zip(op.pads, op.kernel * 2, strict=True)):
        # ONNX Runtime's pools take no padding of a whole kernel, which ceil_mode and dilation can come to.
        value = to.constant(exporting.scalar(fill, to.value(node.output).dtype), "fill")
        pads = exporting.integers(to, (0, 0, *op.pads[:2], 0, 0, *op.pads[2:]), "pads")
        x = to.emit("Pad", [x, pads, value])
        attrs["pads"] = [0, 0, 0, 0]
    return x, attrs


# ---- reference


def max_pool(x: Tensor, window: Window) -> Tensor:
    """The largest pixel of each window; what is outside the image counts as -inf."""
    from torch.nn import functional as F

    if _torch_pads(window):
        return F.max_pool2d(x, window.kernel, window.stride, window.pads[:2], window.dilation)
    x = computing.padded(x, window.pads, -math.inf)
    return F.max_pool2d(x, window.kernel, window.stride, 0, window.dilation)


def average_pool(x: Tensor, window: Window, count_include_pad: bool) -> Tensor:
    """The mean of each window: over its pixels inside the image, or over all of it, those outside being 0."""
    from torch.nn import functional as F

    if _torch_pads(window) and window.dilation == (1, 1):
        return F.avg_pool2d(x, window.kernel, window.stride, window.pads[:2], count_include_pad=count_include_pad)

    def window_sum(image: Tensor) -> Tensor:
        ones = image.new_ones(image.shape[1], 1, *window.kernel)
        return computing.convolve(image, ones, None, window, groups=image.shape[1])

    if count_include_pad:
        return window_sum(x) / window.taps
    return window_sum(x) / window_sum(x.new_ones(1, 1, *x.shape[2:]))


def _torch_pads(window: Window) -> bool:
    """Whether torch's pools take the padding: symmetric, and at most half of the window."""
    return window.pads[:2] == window.pads[2:] and all(
        2 * pad <= kernel for pad, kernel in zip(window.pads, window.kernel, strict=False)
    )


OPS = (Pool,)
