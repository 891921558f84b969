"""Convolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import onnx

from optgraph.base.errors import ModelError
from optgraph.ir.op import Exporter, Handlers, Importer, Inputs, Node, Outputs, check_vector, image, present
from optgraph.ir.quant import Quant
from optgraph.ir.values import Dim, Value
from optgraph.kernels import conv2d, depthwise, pointwise
from optgraph.kernels.conv2d import CONV2D
from optgraph.kernels.depthwise import DEPTHWISE
from optgraph.kernels.pointwise import POINTWISE
from optgraph.ops import computing, exporting, products
from optgraph.ops.lowered import after, before
from optgraph.ops.products import Products
from optgraph.ops.rounding import rounded
from optgraph.ops.windowed import Windowed, read_window
from optgraph.plan.lowering import Lowering


@dataclass(frozen=True, kw_only=True)
class Conv(Windowed):
    """2-D convolution; w is [Cout, Cin/groups, kh, kw]. onto: the grid that what it reads is rounded to, if there is
    one."""

    slots = ("x", "w", "b", "residual", "pre_scale", "pre_shift", "slope")
    prologue_field = "pre_act"
    writes_channels = True
    takes_residual = 1
    integers = True
    groups: int = 1
    onto: tuple[Quant, ...] = ()

    @property
    def pointwise(self) -> bool:
        """A 1×1 convolution without padding or groups: a matrix product over pixels."""
        return self.kernel == (1, 1) and self.groups == 1 and self.pads == (0, 0, 0, 0)

    def depthwise(self, channels: Dim) -> bool:
        """One filter a channel, no channel multiplier (given the input's channel count; needs cout = cin)."""
        return self.groups > 1 and self.groups == channels

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x, w = image(inputs), present(inputs, 1)
        if len(w.shape) != 4 or w.shape[2:] != self.kernel:
            raise ModelError(f"weight of shape {list(w.shape)} does not fit kernel {list(self.kernel)}")
        cin, cout = w.shape[1], w.shape[0]
        if not isinstance(cin, int) or x.shape[1] != cin * self.groups:
            raise ModelError(f"input has {x.shape[1]} channels, weight expects {cin} × {self.groups} groups")
        if not isinstance(cout, int) or cout % self.groups:
            raise ModelError(f"{cout} output channels do not divide into {self.groups} groups")
        for slot, length in ((2, cout), (4, x.shape[1]), (5, x.shape[1])):
            check_vector(inputs, slot, length)
        return self.infer_image(inputs, cout)

    @staticmethod
    def from_onnx(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        kernel = list(attrs.get("kernel_shape", importer.shape(node.input[1])[2:]))
        window = read_window(importer, node, attrs, kernel)
        importer.add(Conv(**window, groups=int(attrs.get("group", 1))), node.input)

    handlers: ClassVar[Handlers] = {"Conv": from_onnx}

    def export(self, to: Exporter, node: Node) -> None:
        x = exporting.prologue(to, node, self.pre_act)
        x = exporting.rounded(to, x, self.onto, to.value(node.inputs[0]).dtype)
        weights = [to.name(node.get("w")), to.name(node.get("b"))]
        y = to.emit("Conv", [x, *weights], group=self.groups, **self.window_attributes())
        self.export_epilogue(to, node, y)

    def compute(self, inputs: Inputs) -> Outputs:
        x, w, b, residual, scale, shift, slope = self.per_slot(inputs)
        x = rounded(computing.scaled(x, scale, shift, self.pre_act), self.onto)
        return self.compute_epilogue(computing.convolve(x, w, b, self.window, self.groups), residual, slope)

    def lower(self, context: Lowering, node: Node) -> None:
        w = context.constant(node, "w")
        channels = context.shape(node.inputs[0])[1]
        pre, end = before(context, node, self.pre_act), after(context, node, self)
        pre = replace(pre, onto=self.onto[0]) if self.onto else pre
        x, out = context.read(node.inputs[0]).nhwc, context.write(node.output).nhwc
        product = Products(context, node.inputs[0], pre, w)
        if self.pointwise:
            weight = product.weight(products.pack_pointwise, pointwise.pack)
            how: dict[str, Any] = {
                "stride": self.stride,
                "precision": context.precision,
                "before": pre,
                "after": product.after(end),
            }
            context.call(POINTWISE, node, ("outs",), x=x, weight=weight, outs=(out,), **how)
        elif self.depthwise(channels) and context.shape(node.output)[1] == channels:
            weight = product.weight(products.pack_depthwise, depthwise.pack)
            how = {"window": self.window, "before": pre, "after": product.after(end)}
            context.call(DEPTHWISE, node, x=x, weight=weight, out=out, **how)
        else:
            weight = product.weight(products.pack_conv2d, conv2d.pack, groups=self.groups)
            size = (x.shape[1], x.shape[2])
            how = {"window": self.window, "before": pre, "after": product.after(end, self.window, size)}
            how |= {"groups": self.groups, "precision": context.precision}
            context.call(CONV2D, node, x=x, weight=weight, out=out, **how)


OPS = (Conv,)
