"""What slides a window over an image, with a prologue before it and an epilogue after:

    y = quants( post( before_residual( act( op(pre(x)) + bias ) ) + residual ) )
    pre(x) = pre_act(x * pre_scale + pre_shift)

One of act and post may be a PRelu, with a slope a channel in the slot `slope`.

Simplified graphs leave both empty, so that every operator has a standard ONNX equivalent; the fuse passes fill them in.
Padding is applied after the prologue: a padded position contributes exactly zero (-inf to a max pool).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import onnx

from optgraph.base.errors import FIX_INPUT, ModelError
from optgraph.ir.op import Exporter, Importer, Node, Outputs, check_slope, image
from optgraph.ir.quant import Quant
from optgraph.ir.values import IDENTITY, Act, Dim, Pads, Pair, Value, Window
from optgraph.ops import computing, exporting
from optgraph.ops.importing import KeepError
from optgraph.ops.rounding import Rounding, rounded

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Windowed(Rounding):
    """Base of the windowed operators, which have a slot `residual`, and one `slope` or no PRelu.

    before_residual: the grid that is rounded to before the residual is added, if there is one.
    takes_residual: whether a following addition may become its residual, 0 if not; of two operators that may, the one
    with the larger number takes it.
    """

    takes_residual: ClassVar[int] = 0
    kernel: Pair
    stride: Pair = (1, 1)
    pads: Pads = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    pre_act: Act = IDENTITY
    act: Act = IDENTITY
    post: Act = IDENTITY
    before_residual: tuple[Quant, ...] = ()

    @cached_property  # which every `infer` asks for
    def window(self) -> Window:
        return Window(self.kernel, self.stride, self.pads, self.dilation)

    def infer_image(self, inputs: Sequence[Value | None], channels: Dim) -> tuple[Value, ...]:
        """The output, of that many channels. Raises ModelError if the window, residual or slopes do not fit."""
        x = image(inputs)
        out = Value((x.shape[0], channels, *self.window.over(x.shape[2], x.shape[3])), x.dtype)
        slot = self.slots.index("residual")
        residual = inputs[slot] if slot < len(inputs) else None
        if residual is not None and residual.shape != out.shape:
            raise ModelError(f"residual of shape {list(residual.shape)} onto an output of {list(out.shape)}")
        check_slope(self, inputs, channels, self.act, self.post)
        return (out,)

    def epilogue_field(self, node: Node) -> str:
        if not self.takes_residual:
            return ""
        return "post" if node.get("residual") else "act"

    def window_attributes(self) -> dict[str, Any]:
        return {"kernel_shape": self.kernel, "strides": self.stride, "pads": self.pads, "dilations": self.dilation}

    def export_epilogue(self, to: Exporter, node: Node, y: str) -> None:
        residual, slope = node.get("residual"), node.get("slope") if "slope" in self.slots else ""
        y = exporting.activated(to, y, self.act, to.value(node.output), slope)
        y = exporting.rounded(to, y, self.before_residual, to.value(node.output).dtype)
        y = to.emit("Add", [y, to.name(residual)]) if residual else y
        exporting.finish(to, node.output, y, self.post, slope, self.quants)

    def compute_epilogue(self, y: Tensor, residual: Tensor | None, slope: Tensor | None = None) -> Outputs:
        y = rounded(computing.activated(y, self.act, slope), self.before_residual)
        y = computing.activated(y if residual is None else y + residual, self.post, slope)
        return (rounded(y, self.quants),)


def read_window(
    importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any], kernel: Sequence[int]
) -> dict[str, Any]:
    """kernel, stride, dilation and explicit pads of a convolution or pool. Raises KeepError if it is not 2-D."""
    x = importer.shape(node.input[0])
    if len(x) != 4 or len(kernel) != 2:
        raise KeepError
    stride = list(attrs.get("strides", [1, 1]))
    dilation = list(attrs.get("dilations", [1, 1]))
    pads = list(attrs.get("pads", [0, 0, 0, 0]))
    if (len(stride), len(dilation), len(pads)) != (2, 2, 4):
        raise ModelError(f"strides {stride}, dilations {dilation}, pads {pads} are not for two axes")
    auto = attrs.get("auto_pad", "NOTSET")
    if auto == "VALID":
        pads = [0, 0, 0, 0]
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        for i in range(2):
            size = x[2 + i]
            if isinstance(size, str):
                raise ModelError(f"auto_pad needs a fixed size, not '{size}'", FIX_INPUT, "auto_pad")
            reach = (kernel[i] - 1) * dilation[i] + 1
            total = max((math.ceil(size / stride[i]) - 1) * stride[i] + reach - size, 0)
            small, large = total // 2, total - total // 2
            pads[i], pads[i + 2] = (small, large) if auto == "SAME_UPPER" else (large, small)
    if min(pads) < 0 or min(stride) < 1 or min(dilation) < 1 or min(kernel) < 1:
        raise ModelError(f"kernel {list(kernel)}, strides {stride}, dilations {dilation}, pads {pads} make no window")
    return {
        "kernel": (kernel[0], kernel[1]),
        "stride": (stride[0], stride[1]),
        "dilation": (dilation[0], dilation[1]),
        "pads": (pads[0], pads[1], pads[2], pads[3]),
    }
