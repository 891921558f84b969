"""A dense convolution and the pointwise one that follows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optgraph.base.dtypes import torch_dtype
from optgraph.base.errors import ModelError
from optgraph.ir.op import Exporter, Inputs, Node, Outputs, check_slope, check_vector, fixed, image, present
from optgraph.ir.values import IDENTITY, Act, Value
from optgraph.kernels import conv2d, pointwise
from optgraph.kernels.bottleneck import BOTTLENECK, pays
from optgraph.kernels.conv2d import CONV2D
from optgraph.kernels.elementwise import ELEMENTWISE
from optgraph.kernels.frame.ends import Epilogue
from optgraph.kernels.frame.view import View
from optgraph.kernels.pointwise import POINTWISE
from optgraph.ops import computing, exporting
from optgraph.ops.lowered import after, before, fusion
from optgraph.ops.windowed import Windowed
from optgraph.plan.lowering import Lowering


@dataclass(frozen=True, kw_only=True)
class Bottleneck(Windowed):
    """Dense k×k convolution (conv_w is [Ch, Cin, kh, kw]) → `mid` activation → pointwise (w is [Cout, Ch + Cr, 1, 1]).

    The pointwise one may also read `rest`, of Cr channels, concatenated to the convolution's: before it (`rest_first`)
    or behind it. rest_in_place: its producer may write straight into such a concatenation (see `place_concat`).
    """

    slots = ("x", "conv_w", "conv_b", "w", "b", "residual", "pre_scale", "pre_shift", "rest", "slope", "mid_slope")
    writes_channels = True
    mid: Act = IDENTITY
    rest_first: bool = False
    rest_in_place: bool = False

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x, conv_w, w = image(inputs), present(inputs, 1), present(inputs, 3)
        rest = inputs[8] if len(inputs) > 8 else None
        if len(conv_w.shape) != 4 or len(w.shape) != 4 or conv_w.shape[1:] != (x.shape[1], *self.kernel):
            raise ModelError(f"weights {list(conv_w.shape)} and {list(w.shape)} do not fit {x.shape[1]} channels")
        hidden, columns = fixed(conv_w.shape[0]), w.shape[0]
        size = self.window.over(x.shape[2], x.shape[3])
        if rest is not None and (len(rest.shape) != 4 or (rest.shape[0], *rest.shape[2:]) != (x.shape[0], *size)):
            raise ModelError(f"cannot join {list(rest.shape)} to images of {list(size)} pixels")
        joined = hidden + (0 if rest is None else fixed(rest.shape[1]))
        if w.shape[1:] != (joined, 1, 1):
            raise ModelError(f"a weight of shape {list(w.shape)} for {joined} channels")
        for slot, length in ((2, hidden), (4, columns), (6, x.shape[1]), (7, x.shape[1])):
            check_vector(inputs, slot, length)
        check_slope(self, inputs, hidden, self.mid, name="mid_slope")
        return self.infer_image(inputs, columns)

    def export(self, to: Exporter, node: Node) -> None:
        x = exporting.prologue(to, node, self.pre_act)
        conv_w, conv_b, w, b, rest = (to.name(node.get(slot)) for slot in ("conv_w", "conv_b", "w", "b", "rest"))
        y = to.emit("Conv", [x, conv_w, conv_b], **self.window_attributes())
        y = exporting.activated(to, y, self.mid, to.value(node.output), node.get("mid_slope"))
        if rest:
            y = to.emit("Concat", [rest, y] if self.rest_first else [y, rest], axis=1)
        self.export_epilogue(to, node, to.emit("Conv", [y, w, b], kernel_shape=(1, 1)))

    def compute(self, inputs: Inputs) -> Outputs:
        import torch

        x, conv_w, conv_b, w, b, residual, scale, shift, rest, slope, mid_slope = self.per_slot(inputs)
        x = computing.scaled(x, scale, shift, self.pre_act)
        z = computing.activated(computing.convolve(x, conv_w, conv_b, self.window), self.mid, mid_slope)
        if rest is not None:
            z = torch.cat((rest, z) if self.rest_first else (z, rest), 1)
        return self.compute_epilogue(computing.convolve(z, w, b), residual, slope)

    def place(self, context: Lowering, node: Node) -> None:
        if self.rest_in_place and not self._one_launch(context, node):
            context.alias(node.get("rest"), self._joined(context, node)[2])

    def placed(self, node: Node) -> tuple[str, ...]:
        return (node.get("rest"),) if self.rest_in_place else ()

    def lower(self, context: Lowering, node: Node) -> None:
        conv_weight = context.matrix(conv2d.pack, context.constant(node, "conv_w"), groups=1)
        weight = context.matrix(pointwise.pack, context.constant(node, "w"))
        conv_bias, mid_slope = context.vector(node.get("conv_b")), context.vector(node.get("mid_slope"))
        end, out = after(context, node, self), context.write(node.output).nhwc
        common = {"window": self.window, "before": before(context, node, self.pre_act), "precision": context.precision}
        rest = node.get("rest")
        if self._one_launch(context, node):
            context.call(
                BOTTLENECK,
                node,
                x=context.dense(node, node.inputs[0]),
                conv_weight=conv_weight,
                weight=weight,
                conv_bias=conv_bias,
                rest=context.dense(node, rest) if rest else None,
                rest_first=self.rest_first,
                mid=self.mid,
                mid_slope=mid_slope,
                after=end,
                out=out,
                **common,
            )
            return
        joined, hidden, beside = self._joined(context, node)
        if rest and context.read(rest) != beside:
            context.call(ELEMENTWISE, node, x=context.read(rest).nhwc, out=beside.nhwc)
        x, middle = context.read(node.inputs[0]).nhwc, Epilogue(conv_bias, self.mid, slope=mid_slope)
        context.call(CONV2D, node, x=x, weight=conv_weight, after=middle, out=hidden.nhwc, **common)
        product = {"weight": weight, "after": end, "precision": context.precision}
        context.call(POINTWISE, node, ("outs",), x=joined.nhwc, outs=(out,), **product)

    def _one_launch(self, context: Lowering, node: Node) -> bool:
        """Whether one kernel does it all."""
        hidden, joined = int(context.graph.shape(node.get("conv_w"))[0]), int(context.graph.shape(node.get("w"))[1])
        copied = joined > hidden and not self.rest_in_place
        found = fusion(context, node, self, BOTTLENECK, hidden=hidden, rest=joined - hidden, copied=copied)
        predicted = pays(
            found.image,
            hidden,
            found.rest,
            found.columns,
            window=found.window,
            affine=found.affine,
            residual=found.residual,
            dtype=torch_dtype(context.storage),
            target=context.target,
        )
        return context.one_launch(node, found, predicted)

    def _joined(self, context: Lowering, node: Node) -> tuple[View, View, View]:
        """For two launches: what the 1×1 reads, and the convolution's and the rest's channels of that."""
        hidden, channels = int(context.graph.shape(node.get("conv_w"))[0]), int(context.graph.shape(node.get("w"))[1])
        n, _, h, w = context.shape(node.output)
        whole = context.scratch(node, (n, channels, h, w))
        if self.rest_first:
            return whole, whole.part(1, channels - hidden, hidden), whole.part(1, 0, channels - hidden)
        return whole, whole.part(1, 0, hidden), whole.part(1, hidden, channels - hidden)


OPS = (Bottleneck,)
